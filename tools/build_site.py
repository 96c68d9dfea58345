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
    starts = [r'\]\(', r'^\[[^]]+\]: ', r'href: '] # `[text](page.ipynb)`, `[name]: page.ipynb`, and in _quarto.yml `href: page.ipynb`
    link = re.compile(rf"({'|'.join(starts)})({'|'.join(map(re.escape, names))})(?=[)#\s,}}])", re.M)
    renamed = lambda text: link.sub(lambda m: f'{m[1]}{names[m[2]]}.ipynb', text)
    config = PROC/'_quarto.yml'
    config.write_text(renamed(config.read_text(encoding='utf-8')), encoding='utf-8')
    for old,new in names.items():
        notebook = json.loads((PROC/old).read_text(encoding='utf-8'))
        for cell in notebook['cells']:
            if cell['cell_type']=='markdown': cell['source'] = renamed(''.join(cell['source']))
        notebook['cells'][0]['source'] = re.sub(r'^output-file:.*\n', '', ''.join(notebook['cells'][0]['source']), flags=re.M)
        (PROC/old).unlink()
        (PROC/f'{new}.ipynb').write_text(json.dumps(notebook), encoding='utf-8')
    return names

def view_source(text, names):
    "The `View source` link of a page leads to the notebook by the name it has in nbs/."
    for old,new in names.items(): text = text.replace(f'/nbs/{new}.ipynb"', f'/nbs/{old}"')
    return text

def picture_sizes():
    "{a picture in base64: the size in pixels at which its notebook shows it}; a retina picture has twice as many of its own"
    outputs = [output for path in PROC.glob('*.ipynb') for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] for output in cell.get('outputs', [])]
    sizes = [(output['data']['image/png'], output['metadata'].get('image/png', {})) for output in outputs if 'image/png' in output.get('data', {})]
    return {''.join(png).strip(): size for png,size in sizes if size}

def sized_pictures(text, sizes):
    "smalldocs does not read a picture's size, and would draw it as wide as the column lets it."
    def attributes(match): return match[0] + ''.join(f' {k}="{v}"' for k,v in sorted(sizes.get(match[1], {}).items()))
    return re.sub(r'src="data:image/png;base64,([^"]+)"', attributes, text)

def mathml(match):
    "MathML for a formula that smalldocs left as TeX for KaTeX, which it would fetch from another host."
    display,tex = match[1],html.unescape(match[2])
    formula = convert(tex, display='block' if display=='display' else 'inline')
    formula = formula.replace('<mo>&#x0002F;</mo>', '<mi>/</mi>') # TeX sets no space around a slash
    return f'<span class="math {display}">{formula}</span>'

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
        names,sizes = rename_pages(),picture_sizes()
        command = [Path(sys.executable).with_name('smalldocs'), 'render']
    subprocess.run(command, cwd=PROC, check=True)
    shutil.rmtree(DOCS, ignore_errors=True)
    shutil.move(PROC/'_docs', DOCS)
    cfg = get_config()
    if not quarto: rewrite('*.html', lambda text: view_source(sized_pictures(formulas(text), sizes), names))
    rewrite('*.html', lambda text: finish_links(text, f'{cfg.doc_host}{cfg.doc_baseurl}/'))
    rewrite('*.css', drop_web_fonts)

if __name__ == '__main__':
    build()
    broken = broken_links(DOCS)
    print(*broken, f"{len(list(DOCS.glob('*.html')))} pages in _docs/, {len(broken)} broken links", sep='\n')
    sys.exit(bool(broken))
