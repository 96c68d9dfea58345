"""What both renderers of the site, Quarto and smalldocs, run when their pages are there: nbs/_quarto.yml names this
script. What the two do differently is made alike here, and what both leave undone is done: pages bear the names that
nbdev's links expect, formulas are MathML, no page asks another host for anything, and each has a Markdown copy."""
import html, json, os, re
from pathlib import Path

from markdown_pages import front_matter, markdown_copies
from nbdev.config import get_config
from page_furniture import copy_notebooks, furnish
from pictures import shrink
from quarto_site import as_smalldocs
from search_index import search_index
from smalldocs_site import formulas, hanging_lines, picture_sizes, unpack_pictures, view_source

def page_names(proc):
    """{file name of a notebook in _proc: the name without suffix of its page}, which nbdev chooses. For smalldocs,
    the notebook has that name already."""
    fronts = {path.name: front_matter(json.loads(path.read_text(encoding='utf-8'))) for path in proc.glob('*.ipynb')}
    return {name: front.get('output-file', name).rpartition('.')[0] for name,front in fronts.items()}

def pages_of(nbs):
    "{file name of a notebook in the folder nbs: name of its page, without suffix}, by nbdev's rule."
    return {path.name: re.sub(r'^\d+[a-z]*_', '', path.stem) for path in nbs.glob('*.ipynb')}

def copy_of(page): return f'<link rel="alternate" type="text/markdown" href="{page.name}.md">'

def finish_head(text, page):
    "Where the Markdown copy is, and what kind of thing a social card is about."
    kind = f'<meta property="og:type" content="{"website" if page.stem=="index" else "article"}">'
    if 'property="og:type"' in text: kind = ''
    return text.replace('</head>', f'{kind}{copy_of(page)}</head>', 1)

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
    return hanging_lines(finish_for_all(name_questions(finish_head(text.replace(f'href="{home}', 'href="'), page))))

def finish(
    proc, # folder of the processed notebooks
    docs, # folder of the rendered site
    by_smalldocs, # whether smalldocs has made the pages; otherwise Quarto has
):
    "Finish the pages that have not been: after a change, `nbdev_preview` renders one page only."
    cfg = get_config()
    home = f'{cfg.doc_host}{cfg.doc_baseurl}/'
    sizes,pages = picture_sizes(proc),pages_of(cfg.nbs_path)
    notebooks = {page: name for name,page in pages.items()}
    for page in docs.glob('*.html'):
        text = page.read_text(encoding='utf-8')
        if copy_of(page) in text: continue
        if by_smalldocs: text = view_source(unpack_pictures(formulas(text), page, sizes), pages)
        else: text = unpack_pictures(as_smalldocs(text, home), page, {})
        text = furnish(finish_page(text, page, home), notebooks.get(page.stem), pages, cfg)
        page.write_text(text, encoding='utf-8')
    copy_notebooks(docs, cfg)
    for name,copy in markdown_copies(proc, page_names(proc), home, cfg.title, cfg.description).items():
        (docs/name).write_text(copy, encoding='utf-8')
    search_index(docs)
    for path in docs.rglob('*.css'): path.write_text(drop_web_fonts(path.read_text(encoding='utf-8')), encoding='utf-8')
    for path in docs.rglob('*.png'): path.write_bytes(shrink(path.read_bytes()))

if __name__ == '__main__':
    finish(Path.cwd(), Path(os.environ['QUARTO_PROJECT_OUTPUT_DIR']), 'SMALLDOCS' in os.environ)
