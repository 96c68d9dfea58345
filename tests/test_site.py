"""The built site, read as files. `make test-site` builds `_docs/` before, and so does `make site`, which also
looks for links that lead nowhere."""
import html, io, json, os, re, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.site
ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT/'_docs'
sys.path.insert(0, str(ROOT/'tools'))
from markdown_pages import reading_order
from quarto_site import as_smalldocs
from site_links import broken_links
from smalldocs_site import hanging_lines

def page_of(notebook):
    "The name of a notebook's page."
    return re.sub(r'^\d+[a-z]*_', '', Path(notebook).stem)

MADE = {'changelog'} # whose text isn't in its notebook: tests/test_furniture.py looks at it
NOTEBOOKS = {page_of(path): path for path in (ROOT/'nbs').glob('*.ipynb') if page_of(path) not in MADE}
ORDER = [page_of(name) for names in reading_order(ROOT/'_quarto.yml').values() for name in names]

def cells_of(name):
    "The cells of a page's notebook."
    return json.loads(NOTEBOOKS[name].read_text(encoding='utf-8'))['cells']

@pytest.fixture(scope='session')
def pages():
    assert DOCS.exists(), 'no _docs/: run `make site` first'
    return {p.stem: p.read_text(encoding='utf-8') for p in DOCS.glob('*.html') if p.stem not in MADE}

def text_of(page): return html.unescape(re.sub(r'<[^>]+>', '', page))

def test_every_notebook_has_its_page(pages):
    assert sorted(NOTEBOOKS) == sorted(pages) == sorted(ORDER)

def test_sidebar_is_in_reading_order(pages):
    for name,page in pages.items():
        sidebar = re.search(r'<nav[^>]*id="quarto-sidebar".*?</nav>', page, re.S)[0]
        linked = re.findall(r'href="(?:\./)?([\w]+)\.html"', sidebar)
        assert list(dict.fromkeys(linked)) == ORDER, name

def test_previous_and_next(pages):
    for before,after in zip(ORDER, ORDER[1:]):
        assert re.search(rf'nav-page-next">\s*<a href="(\./)?{after}\.html"', pages[before]), before
        assert re.search(rf'nav-page-previous">\s*<a href="(\./)?{before}\.html"', pages[after]), after

def test_nothing_comes_from_another_host(pages):
    for name,page in pages.items():
        for tag in re.findall(r'<(?:script|img|source|iframe|link)\b[^>]*>', page):
            if re.search(r'rel=["\']?canonical', tag): continue
            assert not re.search(r'\b(src|href)=["\']?(https?:)?//', tag), (name, tag)
    for css in DOCS.rglob('*.css'):
        assert not re.search(r'@import[^;]*//|url\(["\']?(https?:)?//', css.read_text(encoding='utf-8')), css

def test_formulas_are_mathml(pages):
    assert '<math' in pages['initializing'] and '<math' in pages['why_sqrt5']
    for name,page in pages.items():
        assert not re.search(r'class="math (inline|display)">\s*\\[(\[]', page), name

def test_symbols_link_to_their_entries(pages):
    "A backticked symbol leads to an anchor; that it exists is what `make site` checks."
    assert re.search(r'<a href="callbacks\.html#runner"><code>Runner</code></a>', pages['anneal'])
    assert re.search(r'<a href="minibatch_training\.html#sgd"><code>SGD</code></a>', pages['callbacks'])
    link = re.compile(r'\]\((https?://[^)]*\.html#|\w+\.(ipynb|html)\b)')
    for name,page in pages.items():
        assert not link.search(text_of(re.sub(r'<pre.*?</pre>', '', page, flags=re.S))), f'{name}: a link shows as text'
        assert not re.search(r'\]\(https?://[^)]*\.html#', page), f'{name}: a link in code'

def test_no_heading_takes_the_anchor_of_an_entry(pages):
    "A section called `Runner` would get the anchor that links to the entry `Runner` expect, and the entry `runner-1`."
    for name,page in pages.items(): assert re.findall(r'<h3[^>]*id="([\w.]+-\d)"', page) == [], name

def test_no_path_of_this_machine(pages):
    for name,page in pages.items(): assert str(ROOT) not in page and str(Path.home()) + '/' not in page, name

def test_entries_link_to_their_source(pages):
    link = r'<a href="https://github\.com/[^"]+/lesson9/callbacks\.py#L\d+"[^>]*>source</a>'
    assert re.search(link, pages['callbacks'])

def test_every_picture_has_a_description(pages):
    for name,page in pages.items():
        for img in re.findall(r'<img\b[^>]*>', page[page.index('<main'):]):
            assert re.search(r'\balt="[^"]{10,}"', img), (name, img[:60], img[-80:])

QUESTION = re.compile(r'<details id="([^"]+)" class="question">\s*<summary>\s*(.*?)\s*</summary>(.*?)</details>', re.S)

def straight(text):
    "Quarto prints quotation marks and apostrophes as a book does."
    return text.translate(str.maketrans('‘’“”', "''\"\""))

def test_a_question_is_folded_and_its_answer_rendered(pages):
    "Each question of a notebook, with an anchor of its own, and its answer as a page shows it."
    asked = {}
    for name in NOTEBOOKS:
        markdown = [''.join(cell['source']) for cell in cells_of(name) if cell['cell_type']=='markdown']
        asked[name] = re.findall(r'<details class="question"><summary>(.*?)</summary>', '\n'.join(markdown))
    assert sum(map(len, asked.values()))>30
    for name,page in pages.items():
        found = QUESTION.findall(page)
        plain = [(anchor, text_of(question), answer) for anchor,question,answer in found]
        assert [text_of(question) for question in asked[name]]==[straight(question) for _,question,_ in plain], name
        assert len({anchor for anchor,_,_ in plain})==len(plain), name
        for anchor,question,answer in plain:
            assert anchor=='question-' + '-'.join(re.findall(r'\w+', question.lower())), (name, anchor)
            assert re.match(r'\s*<(p|ul|ol|pre|div|table)\b', answer), (name, question)
            assert not re.search(r'\]\(|(?<!`)`\w', text_of(answer)), (name, question, 'Markdown shows')

def test_pictures_have_the_size_their_notebook_shows_them_at(pages):
    for name,page in pages.items():
        outputs = [output for cell in cells_of(name) for output in cell.get('outputs', [])]
        sizes = [output['metadata']['image/png'] for output in outputs if 'image/png' in output.get('metadata', {})]
        widths = [size['width'] for size in sizes]
        for img in re.findall(r'<img\b[^>]*img-fluid[^>]*>', page):
            assert int(re.search(r'\bwidth="(\d+)"', img)[1]) in widths, name

def test_a_page_and_its_pictures_are_small(pages):
    "So that a page is soon there on a slow line; style sheets and scripts come once for all pages."
    for name,page in pages.items():
        assert not re.search(r'<[^>]*;base64,', page), name # in a tag; code may speak of it
        files = set(re.findall(r'<img\b[^>]*\bsrc="([^"]+)"', page))
        assert len(page.encode()) + sum((DOCS/file).stat().st_size for file in files) < 1_500_000, name

def test_pictures_look_as_they_did():
    """Fewer colours only where that cannot be seen; where it could, as in a smooth run of all colours, none is taken
    away."""
    from PIL import Image
    from pictures import shrink
    def png(array):
        file = io.BytesIO()
        Image.fromarray(array).save(file, 'PNG')
        return file.getvalue()
    def pixels(data): return np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
    grey = np.broadcast_to(np.arange(256, dtype=np.uint8)[:,None,None], (256,256,3))
    every = np.stack([*np.mgrid[:256,:256], np.full((256,256), 128)], -1).astype(np.uint8)
    clear = np.zeros((64,64,4), np.uint8)
    for picture in (grey, every): assert (pixels(shrink(png(picture)))==picture).all()
    assert (pixels(shrink(png(clear)))==255).all()
    noise = np.random.randint(0, 256, (64,64,3), dtype=np.uint8)
    assert (pixels(shrink(png(noise)))==noise).all()
    for picture in (grey, every, noise): assert len(shrink(png(picture))) <= len(png(picture))

def subtitle(name):
    "What the notebook of a page has as `> subtitle`."
    return re.search(r'^> (.*)$', ''.join(cells_of(name)[0]['source']), re.M)[1]

def test_pages_say_what_they_are_about(pages):
    "In the window's title, to search engines, and on a social card."
    for name,page in pages.items():
        head = straight(html.unescape(page[:page.index('</head>')]))
        title = straight(html.unescape(re.search(r'<h1 class="title[^"]*">(.*?)</h1>', page)[1]))
        has = lambda key,value: re.search(rf'<meta (?:name|property)="{key}" content="{value}', head)
        assert title in re.search('<title>(.*?)</title>', head, re.S)[1], name
        assert '`' not in subtitle(name), (name, 'renderers treat code in a subtitle differently')
        for key in ('description', 'og:description', 'twitter:description'):
            assert has(key, re.escape(subtitle(name))), (name, key)
        kind = 'website' if name=='index' else 'article'
        card = {'og:title': re.escape(title), 'og:type': f'{kind}"', 'og:image': 'https://.*/card.png"',
                'twitter:card': 'summary_large_image"'}
        for key,value in card.items(): assert has(key, value), (name, key)
        assert f'<link rel="alternate" type="text/markdown" href="{name}.html.md">' in head, name
    assert (DOCS/'card.png').exists()

def test_code_on_a_page_is_that_of_its_notebook(pages):
    "To the last space, so that it can be copied, and each line knows how far it is indented."
    start = r'<div class="sourceCode cell-code"[^>]*><pre[^>]*>|<pre class="sourceCode[^>]*cell-code[^>]*>'
    for name,page in pages.items():
        if '<span class="line"' not in page: continue
        cells = [cell for cell in cells_of(name) if cell['cell_type']=='code']
        sources = {re.sub(r'^#\|.*\n?', '', ''.join(cell['source']), flags=re.M).strip('\n') for cell in cells}
        shown = {text_of(code) for code in re.findall(rf'(?:{start})(.*?)</pre>', page, re.S)}
        assert shown and shown <= sources, (name, shown-sources)
        for indent,line in re.findall(r'<span class="line" style="--indent:(\d+)ch">(.*)', page):
            assert re.match(rf' {{{indent}}}', text_of(line)), line

@pytest.fixture(scope='session')
def copies():
    found = {p.name.removesuffix('.html.md'): p.read_text(encoding='utf-8') for p in DOCS.glob('*.html.md')}
    return {name: copy for name,copy in found.items() if name not in MADE}

def test_every_page_has_a_copy_in_markdown(pages, copies):
    assert sorted(copies) == sorted(pages)
    for name,copy in copies.items():
        assert not re.search(r';base64,[\w+/]{40}|\n<IPython|^#\|', copy, re.M), name
        assert not re.search(r'<img|<div|<!--|:::', prose_of(copy)), name
        assert copy.startswith('# ') and f'\n> {subtitle(name)}\n' in copy, name
        for heading in re.findall(r'<h2[^>]*data-anchor-id[^>]*>(.*?)</h2>', pages[name]):
            assert re.search(rf'^## {re.escape(text_of(heading))}$', plain(copy), re.M), (name, heading)
        for alt in re.findall(r'<img\b[^>]*\balt="([^"]{10,})"', pages[name]):
            assert html.unescape(alt) in copy, (name, alt)
    assert 'class Runner' in copies['callbacks'] and 'class="cell' not in copies['callbacks']

def prose_of(copy):
    "A copy without its code and the outputs, which are indented."
    return re.sub(r'(?<=\n\n)( {4}.*\n)+', '', re.sub(r'^(`{3,}).*?^\1$', '', copy, flags=re.M|re.S))

def plain(copy): return re.sub(r'\[(.*?)\]\(.*?\)', r'\1', copy.replace('`', '').replace("'", '’'))

def test_links_of_the_copies_resolve(pages, copies):
    "They lead to copies, never back to pages, and to anchors that the page has."
    linked = 0
    for name,copy in copies.items():
        for target in re.findall(r'\]\(([^)\s]+)\)|^\[[^]]+\]: (\S+)', prose_of(copy), re.M):
            target = target[0] or target[1]
            assert '.github.io/' not in target, (name, target)
            if target.startswith(('https:', 'http:')): continue
            file,_,anchor = target.partition('#')
            assert not file or file.endswith('.html.md') and (DOCS/file).exists(), (name, target)
            assert not anchor or f'id="{anchor}"' in pages[file.removesuffix('.html.md') or name], (name, target)
            linked += 1
    assert linked > 50

def test_llms_txt_lists_every_page_in_reading_order():
    text = (DOCS/'llms.txt').read_text(encoding='utf-8')
    assert re.match(r'# lesson9\n\n> \S[^\n]*\n\n## ', text)
    entries = re.findall(r'^- \[[^]]+\]\((\w+)\.html\.md\): (.+)$', text, re.M)
    assert [entry for entry in entries if entry[0] not in MADE] == [(name, subtitle(name)) for name in ORDER]

def test_readme_is_what_the_notebook_makes():
    subprocess.run([sys.executable, ROOT/'tools'/'readme.py', '--check'], check=True)

def test_a_page_of_quarto_becomes_one_of_ours():
    "As Quarto writes it, in small."
    page = '''<head><meta property="og:image" content="https://x.org/05_anneal_files/figure-html/a.png">
<meta name="twitter:image" content="data:image/png;base64,AAAA"><meta property="og:image:width" content="600">
<script src="https://cdn.jsdelivr.net/npm/requirejs@2.3.6/require.min.js" crossorigin="anonymous"></script>
<script src="https://cdn.jsdelivr.net/npm/jquery@3.5.1/dist/jquery.min.js" crossorigin="anonymous"></script>
<script type="application/javascript">define('jquery', [],function() {return window.jQuery;})</script>
<script src="site_libs/quarto-nav/quarto-nav.js"></script></head><body>
<a href="./index.html" class="navbar-brand navbar-brand-logo"><img src="logo.svg"></a>
<p>so that <math display="block"><mi>x</mi></math> and <math display="inline"><mi>y</mi></math></p>
<pre class="sourceCode python"><code class="sourceCode python"><span id="cb1-1"><a href="#cb1-1" aria-hidden="true"
tabindex="-1"></a><span class="cf">if</span> a:</span>
<span id="cb1-2"><a href="#cb1-2" aria-hidden="true" tabindex="-1"></a>    b()</span>
<span id="cb1-3"><a href="#cb1-3" aria-hidden="true" tabindex="-1"></a></span></code></pre>
<table class="table numbers caption-top table-sm table-striped small"></table>
<table class="caption-top table" style="width:100%;"><colgroup>
<col style="width: 11%">
</colgroup><tr></tr></table></body>'''
    found = hanging_lines(as_smalldocs(page.replace('"true"\ntab', '"true" tab'), 'https://y.org/'))
    assert not re.search('require|jquery|base64|width', found, re.I) and 'quarto-nav.js' in found
    assert found.count('content="https://y.org/card.png"')==2
    assert 'aria-label="Overview"' in found
    assert re.findall('<span class="math display">(.{6})', found)==['<math ']
    code = re.search('<code.*?</code>', found, re.S)[0]
    assert text_of(code)=='if a:\n    b()\n' and code.count('<span class="line"')==3 and '--indent:4ch' in code
    assert 'cb1-' not in code
    assert '<table class="table numbers">' in found and '<table class="caption-top table"><tr>' in found

def test_code_keeps_its_lines_for_quarto():
    "Quarto reads a source that's one text without its line ends."
    for path in (ROOT/'_proc').glob('*.ipynb'):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            assert cell['cell_type']!='code' or isinstance(cell['source'], list), path

def test_a_broken_link_is_found(tmp_path):
    "By the function and from the command line, on a site of three pages."
    pages = dict(index='<h1 id="top">A</h1> <a href="sub/page.html#b">B</a> <img src="logo.svg"> <a href="https://example.org/none">out</a>',
                 other='<a href="./index.html#top">A</a> <a name="c"></a> <a href="#c">C</a>')
    (tmp_path/'sub').mkdir()
    (tmp_path/'logo.svg').write_text('<svg/>')
    (tmp_path/'sub'/'page.html').write_text('<h2 id="b">B</h2> <a href="../index.html">A</a> <a href="..">A</a>')
    for name,page in pages.items(): (tmp_path/f'{name}.html').write_text(page)
    assert broken_links(tmp_path)==[]

    broken = {'gone.html': 'no such file', 'index.html#tap': 'no such anchor', '#d': 'no such anchor',
              'none.png': 'no such file', '../README.md': 'outside the site'}
    links = [f'<img src="{link}">' if link.endswith('png') else f'<a href="{link}"></a>' for link in broken]
    (tmp_path/'other.html').write_text(pages['other'] + ''.join(links))
    lines = sorted(f'other.html: {link} ({reason})' for link,reason in broken.items())
    assert broken_links(tmp_path)==lines
    run = subprocess.run([sys.executable, ROOT/'tools'/'site_links.py', tmp_path], capture_output=True, text=True)
    assert run.returncode == 1 and run.stdout.splitlines()==[*lines, '5 broken links']

FAULTS = """[gone](09_gone.ipynb), [lost](index.ipynb#lost) and ![a picture that isn't there](none.png);
a file named 00_data.ipynb here"""

ASKED = """<details class="question"><summary>Why is <code>a &lt; b</code>?</summary>

Because of **this**, and of `code`: $x^2$.

- a point, with a [link](00_data.ipynb)

</details>"""

def test_a_small_site(tmp_path):
    """A checkout of two notebooks, built as `make site` does: a question is rendered; faults stop the build, and are
    named."""
    for name in 'tools', 'lesson9':
        shutil.copytree(ROOT/name, tmp_path/name, ignore=shutil.ignore_patterns('mnist', '__pycache__'))
    (tmp_path/'nbs').mkdir()
    for name in 'settings.ini', '_quarto.yml', 'nbs/styles.css', 'nbs/logo.svg': shutil.copy(ROOT/name, tmp_path/name)
    (tmp_path/'nbs'/'_quarto.yml').symlink_to('../_quarto.yml')
    def write(name, *texts):
        cells = [dict(cell_type='markdown', id=f'cell-{i}', metadata={}, source=text) for i,text in enumerate(texts)]
        notebook = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)
        (tmp_path/'nbs'/f'{name}.ipynb').write_text(json.dumps(notebook), encoding='utf-8')
    write('index', '# lesson9\n\n> A site', '## A section', ASKED)
    write('00_data', '# Data\n\n> A page', FAULTS)

    build = [sys.executable, 'tools/build_site.py']
    env = os.environ | {'PYTHONPATH': str(tmp_path)}
    run = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, env=env)
    assert run.returncode == 1, run.stderr
    for line in '09_gone.html (no such file)', 'index.html#lost (no such anchor)', 'none.png (no such file)':
        said = run.stdout.replace('09_gone.ipynb', '09_gone.html').replace(': ./', ': ') # as Quarto writes links
        assert f'data.html: {line}' in said
    # only links are renamed
    assert 'a file named 00_data.ipynb here' in (tmp_path/'_docs'/'data.html').read_text(encoding='utf-8')

    (anchor,question,answer), = QUESTION.findall((tmp_path/'_docs'/'index.html').read_text(encoding='utf-8'))
    assert anchor=='question-why-is-a-b' and text_of(question)=='Why is a < b?'
    for part in '<strong>this</strong>', '<code>code</code>', '<math', '<li>': assert part in answer, answer
    assert re.search(r'<a href="(\./)?data\.html">link</a>', answer), answer
    copy = (tmp_path/'_docs'/'index.html.md').read_text(encoding='utf-8')
    assert ASKED.replace('00_data.ipynb', 'data.html.md') in copy, copy

def test_cells_for_readers_are_saved_without_output():
    "What a slider showed to one reader is of no use to another; `make lessons` clears it."
    for name in NOTEBOOKS:
        for cell in cells_of(name):
            if '#| notest' in ''.join(cell['source']): assert cell['outputs']==[], (name, cell['id'])
