"""Build the site into _docs/, then check every link, anchor and image in it: `python tools/build_site.py`

nbdev processes the notebooks; Quarto renders them where it is on the PATH, and smalldocs, which reads the same _quarto.yml,
where it is not. What the two do differently is made alike here: pages bear the names that nbdev's links expect
(`why_sqrt5.html` for 02a_why_sqrt5.ipynb), formulas are MathML, and no page asks another host for anything.
(`nbdev_docs` is not used, because it would also write README.md, and another one than tools/readme.py.)"""
import html, json, re, shutil, subprocess, sys
from pathlib import Path

from latex2mathml.converter import convert
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from site_links import broken_links

ROOT = Path(__file__).resolve().parent.parent
PROC,DOCS = ROOT/'_proc',ROOT/'_docs'

# ---- what smalldocs leaves undone

def page_names():
    "{file name of a notebook in _proc: the name without suffix that nbdev gives its page}"
    front = {p: ''.join(json.loads(p.read_text(encoding='utf-8'))['cells'][0]['source']) for p in PROC.glob('*.ipynb')}
    return {p.name: re.search(r'^output-file: (\S+)\.html$', text, re.M)[1] for p,text in front.items()}

def rename_pages():
    "Give the notebooks in _proc the names of their pages, and rewrite links to them: smalldocs does not read `output-file`."
    names = page_names()
    link = re.compile(r'(?<=[(\s])(%s)(?=[)#\s,}\]])' % '|'.join(map(re.escape, names))) # `(page.ipynb)`, `href: page.ipynb`
    renamed = lambda text: link.sub(lambda m: f'{names[m[1]]}.ipynb', text)
    config = PROC/'_quarto.yml'
    config.write_text(renamed(config.read_text(encoding='utf-8')), encoding='utf-8')
    for old,new in names.items():
        notebook = json.loads((PROC/old).read_text(encoding='utf-8'))
        for cell in notebook['cells']:
            if cell['cell_type']=='markdown': cell['source'] = renamed(''.join(cell['source']))
        notebook['cells'][0]['source'] = re.sub(r'^output-file:.*\n', '', ''.join(notebook['cells'][0]['source']), flags=re.M)
        (PROC/old).unlink()
        (PROC/f'{new}.ipynb').write_text(json.dumps(notebook), encoding='utf-8')

def mathml(match):
    "MathML for a formula that smalldocs left as TeX for KaTeX, which it would fetch from another host."
    display,tex = match[1],html.unescape(match[2])
    return f'<span class="math {display}">{convert(tex, display="block" if display=="display" else "inline")}</span>'

def formulas(text):
    "Formulas as MathML, and no KaTeX."
    text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', mathml, text, flags=re.S)
    return re.sub(r'<(link|script)[^>]*katex[^>]*>(</script>)?', '', text)

# ---- what both renderers leave undone

def finish_links(text, home):
    """nbdev links a backticked symbol by the site's full address, in the comments of a signature too, where it can be no link.
    The first become relative, so that they work wherever the site lies; the second plain."""
    text = re.sub(r'\[(`[^`]+`)\]\(https?://[^)\s]*\)', r'\1', text)
    return text.replace(f'href="{home}', 'href="')

def drop_web_fonts(text):
    "Some themes fetch their font from another host; nbs/styles.css names fonts that readers have."
    return re.sub(r"""@import\s*(url\(["']?https?:[^)]*\)|"https?:[^"]*"|'https?:[^']*')\s*;""", '', text)

def rewrite(pattern, change):
    "Apply `change` to the text of each file in _docs/ that matches."
    for path in DOCS.rglob(pattern): path.write_text(change(path.read_text(encoding='utf-8')), encoding='utf-8')

def build():
    "nbdev makes _proc/ from nbs/, a renderer makes the pages, and they move to _docs/."
    refresh_quarto_yml()
    shutil.rmtree(PROC, ignore_errors=True) # so that no page of a removed notebook stays
    proc_nbs(n_workers=2)
    quarto = shutil.which('quarto')
    if quarto: command = [quarto, 'render', '--no-cache']
    else:
        rename_pages()
        command = [Path(sys.executable).with_name('smalldocs'), 'render']
    subprocess.run(command, cwd=PROC, check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/'_docs', DOCS)
    cfg = get_config()
    if not quarto: rewrite('*.html', formulas)
    rewrite('*.html', lambda text: finish_links(text, f'{cfg.doc_host}{cfg.doc_baseurl}/'))
    rewrite('*.css', drop_web_fonts)

if __name__ == '__main__':
    build()
    broken = broken_links(DOCS)
    print(*broken, f"{len(list(DOCS.glob('*.html')))} pages in _docs/, {len(broken)} broken links", sep='\n')
    sys.exit(bool(broken))
