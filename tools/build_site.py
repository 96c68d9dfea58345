"""Build the site into _docs/, then check every link, anchor and image in it: `python tools/build_site.py`

nbdev processes the notebooks; Quarto renders them where it is on the PATH, and smalldocs, which reads the same
_quarto.yml, where it is not. What the two do differently is made alike here: pages bear the names that nbdev's links
expect (`why_sqrt5.html` for 02a_why_sqrt5.ipynb), formulas are MathML, and no page asks another host for anything.
(`nbdev_docs` is not used, because it would also write README.md, and another one than tools/readme.py.)"""
import html, json, re, shutil, subprocess, sys
from pathlib import Path

from entries import entries
from markdown_pages import front_matter, markdown_copies
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from pictures import card, shrink
from quarto_site import as_smalldocs
from site_links import broken_links
from smalldocs_site import (
    formulas, hanging_lines, picture_sizes, rename_pages, search_index, unpack_pictures, view_source)

ROOT = Path(__file__).resolve().parent.parent
PROC,DOCS = ROOT/'_proc',ROOT/'_docs'

def page_names():
    "{file name of a notebook in _proc: the name without suffix that nbdev gives its page}"
    fronts = {path.name: front_matter(json.loads(path.read_text(encoding='utf-8'))) for path in PROC.glob('*.ipynb')}
    return {name: front['output-file'].removesuffix('.html') for name,front in fronts.items()}

def rewrite(pattern, change):
    "Apply `change` to the text of each file in _docs/ that matches; it is given the file's path, too."
    for path in DOCS.rglob(pattern): path.write_text(change(path.read_text(encoding='utf-8'), path), encoding='utf-8')

def joined(text):
    "A text of a notebook, which may be a list of lines."
    return text if isinstance(text, str) else ''.join(text)

def plain_comments(code):
    "Code without the links that nbdev puts around backticked symbols in comments."
    return re.sub(r'\[(`[^`]+`)\]\(https?://[^)\s]*\)', r'\1', code)

def plain_code():
    "Take the links out of all code in _proc/, also in the signatures that an entry shows."
    for path in PROC.glob('*.ipynb'):
        notebook = json.loads(path.read_text(encoding='utf-8'))
        entries(notebook)
        for cell in notebook['cells']:
            if cell['cell_type']!='code': continue
            source = plain_comments(joined(cell['source']))
            cell['source'] = source.splitlines(keepends=True) # as one text, Quarto would join them
            for data in (output['data'] for output in cell['outputs'] if 'text/markdown' in output.get('data', {})):
                markdown = joined(data['text/markdown'])
                block = re.compile('^```.*?^```', re.M|re.S)
                data['text/markdown'] = block.sub(lambda code: plain_comments(code[0]), markdown)
        path.write_text(json.dumps(notebook), encoding='utf-8')

# ---- what both renderers leave undone

def finish_head(text, page):
    "Where the Markdown copy is, and what kind of thing a social card is about."
    kind = f'<meta property="og:type" content="{"website" if page.stem=="index" else "article"}">'
    if 'property="og:type"' in text: kind = ''
    return text.replace('</head>', f'{kind}<link rel="alternate" type="text/markdown" href="{page.name}.md"></head>', 1)

LANDMARKS = {
    'class="navbar ': 'Site', 'class="quarto-secondary-nav"': 'This page', 'id="quarto-sidebar"': 'Lessons',
    'id="TOC"': 'Sections', 'class="page-navigation"': 'Previous and next',
}

def finish_for_all(text):
    """For readers who don't see the page or use no mouse: each nav has a name, and a table's empty corner is no
    heading. And a mark for nbs/styles.css that tells an exported source from an answer."""
    for mark,name in LANDMARKS.items():
        text = re.sub(rf'<nav (?![^>]*aria-label)(?=[^>]*{mark})', f'<nav aria-label="{name}" ', text)
    text = re.sub(r'(<summary)(>Exported source)', r'\1 class="exported"\2', text)
    actions = '<div class="toc-actions"'
    text = text.replace(f'{actions}>', f'{actions} role="navigation" aria-label="The notebook of this page">')
    # Class.method is broken at the point, if at all
    text = re.sub(r'(<(?:h3|a href="#)[^>]*>\w+\.)(\w+)(?=</(?:h3|a)>)', r'\1<wbr>\2', text)
    return re.sub(r'<th(?: [^>]*)?></th>', '<td></td>', text)

def name_questions(text):
    "Give each question an anchor of its own, made of its words."
    def named(match):
        words = re.findall(r'\w+', html.unescape(re.sub('<[^>]+>', '', match[2])).lower())
        return f'<details id="question-{"-".join(words)}" {match[1]}{match[2]}'
    return re.sub(r'<details (class="question">\s*<summary>)(.*?)(?=</summary>)', named, text, flags=re.S)

def drop_web_fonts(text):
    "Some themes fetch their font from another host; nbs/styles.css names fonts that readers have."
    return re.sub(r"""@import\s*(url\(["']?https?:[^)]*\)|"https?:[^"]*"|'https?:[^']*')\s*;""", '', text)

def finish_page(text, page, home):
    """What both renderers leave undone on a page. nbdev links symbols by the site's full address; a relative one
    works anywhere."""
    return finish_for_all(name_questions(finish_head(text.replace(f'href="{home}', 'href="'), page)))

def build():
    "nbdev makes _proc/ from nbs/, a renderer makes the pages, they move to _docs/ and are finished there."
    cfg = get_config()
    home = f'{cfg.doc_host}{cfg.doc_baseurl}/'
    refresh_quarto_yml()
    shutil.rmtree(PROC, ignore_errors=True) # so that no page of a removed notebook stays
    proc_nbs(n_workers=0) # in this process: each new one would import PyTorch
    plain_code()
    names = page_names()
    card(PROC/'card.png', cfg.title, cfg.description)
    copies = markdown_copies(PROC, names, home, cfg.title, cfg.description)

    quarto = shutil.which('quarto')
    if quarto: command = [quarto, 'render', '--no-cache']
    else:
        rename_pages(PROC, names)
        sizes = picture_sizes(PROC)
        command = [Path(sys.executable).with_name('smalldocs'), 'render']
    subprocess.run(command, cwd=PROC, check=True)

    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/'_docs', DOCS)
    for name,text in copies.items(): (DOCS/name).write_text(text, encoding='utf-8')
    if quarto: rewrite('*.html', lambda text,page: unpack_pictures(as_smalldocs(text, home), page, {}))
    else: rewrite('*.html', lambda text,page: view_source(unpack_pictures(formulas(text), page, sizes), names))
    rewrite('*.html', lambda text,page: hanging_lines(finish_page(text, page, home)))
    search_index(DOCS)
    rewrite('*.css', lambda text,_: drop_web_fonts(text))
    for path in DOCS.rglob('*.png'): path.write_bytes(shrink(path.read_bytes()))

if __name__ == '__main__':
    build()
    broken = broken_links(DOCS)
    print(*broken, f"{len(list(DOCS.glob('*.html')))} pages in _docs/, {len(broken)} broken links", sep='\n')
    sys.exit(bool(broken))
