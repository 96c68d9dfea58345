"The built site, read as files. `make test` has built `_docs/`; without it, build it with `make site`."
import html, io, json, os, re, shutil, subprocess, sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT/'_docs'
sys.path.insert(0, str(ROOT/'tools'))
from site_links import broken_links  # noqa: E402

ORDER = 'index data why_sqrt5 initializing minibatch_training callbacks anneal gpu hooks toolkit mnist speed show_loop journey glossary'.split()

@pytest.fixture(scope='session')
def pages():
    assert DOCS.exists(), 'no _docs/: run `make site` first'
    return {p.stem: p.read_text(encoding='utf-8') for p in DOCS.glob('*.html')}

def text_of(page): return html.unescape(re.sub(r'<[^>]+>', '', page))

def test_every_notebook_has_its_page(pages):
    names = [re.sub(r'^\d+[a-z]?_', '', p.stem) for p in (ROOT/'nbs').glob('*.ipynb')]
    assert sorted(names) == sorted(pages) == sorted(ORDER)

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
            if not re.search(r'rel=["\']?canonical', tag): assert not re.search(r'\b(src|href)=["\']?(https?:)?//', tag), (name, tag)
    for css in DOCS.rglob('*.css'): assert not re.search(r'@import[^;]*//|url\(["\']?(https?:)?//', css.read_text(encoding='utf-8')), css

def test_formulas_are_mathml(pages):
    assert '<math' in pages['initializing'] and '<math' in pages['why_sqrt5']
    for name,page in pages.items():
        assert not re.search(r'class="math (inline|display)">\s*\\[(\[]', page), name

def test_symbols_link_to_their_entries(pages):
    "A backticked symbol leads to an anchor; that it exists is what broken_links checks."
    assert re.search(r'<a href="callbacks\.html#runner"><code>Runner</code></a>', pages['anneal'])
    assert re.search(r'<a href="minibatch_training\.html#sgd"><code>SGD</code></a>', pages['callbacks'])
    shown_as_text = [name for name,page in pages.items() if re.search(r'\]\((https?://[^)]*\.html#|\w+\.(ipynb|html)\b)', text_of(re.sub(r'<pre.*?</pre>', '', page, flags=re.S)))]
    assert shown_as_text == []

def test_no_heading_takes_the_anchor_of_an_entry(pages):
    "A section called `Runner` would get the anchor that links to the entry `Runner` expect, and the entry `runner-1`."
    for name,page in pages.items(): assert re.findall(r'<h3[^>]*id="([\w.]+-\d)"', page) == [], name

def test_no_path_of_this_machine(pages):
    for name,page in pages.items(): assert str(ROOT) not in page and str(Path.home()) + '/' not in page, name

def test_entries_link_to_their_source(pages):
    assert re.search(r'<a href="https://github\.com/[^"]+/lesson9/callbacks\.py#L\d+"[^>]*>source</a>', pages['callbacks'])

def test_every_picture_has_a_description(pages):
    for name,page in pages.items():
        for img in re.findall(r'<img\b[^>]*>', page[page.index('<main'):]): assert re.search(r'\balt="[^"]{10,}"', img), (name, img[:60], img[-80:])

def test_search_knows_symbols_and_prose():
    if (DOCS/'search.json').exists():
        found = json.loads((DOCS/'search.json').read_text(encoding='utf-8'))
        def hits(word): return {entry['href'].split('#')[0] for entry in found if word in entry['title']+entry['section']+entry['text']}
        assert 'callbacks.html' in hits('DeviceCallback') and 'minibatch_training.html' in hits('coroutine')
        questions = {html.unescape(re.sub('<[^>]+>', '', title)) for page in (DOCS/f'{name}.html' for name in ORDER)
                     for title in re.findall(r'role="button"[^>]*data-bs-toggle.*?flex-fill">(.*?)</div>', page.read_text(encoding='utf-8'), re.S)}
        assert len(questions)>30 and questions <= {entry['section'] for entry in found}
        texts = {entry['href']: entry['text'] for entry in found}
        assert "t in [('weight', conv.weight)" in texts['why_sqrt5.html#its-numbers'] and 'shrinks what goes through it' in texts['why_sqrt5.html#its-numbers'] # what stands behind a `<` in code

def test_search_leads_to_headings(pages):
    if (DOCS/'search.json').exists():
        for entry in json.loads((DOCS/'search.json').read_text(encoding='utf-8')):
            page,_,anchor = entry['href'].partition('.html#')
            assert not anchor or f'id="{anchor}"' in pages[page], entry['href']

def test_pictures_have_the_size_their_notebook_shows_them_at(pages):
    for path in (ROOT/'nbs').glob('*.ipynb'):
        outputs = [output for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] for output in cell.get('outputs', [])]
        widths = [output['metadata']['image/png']['width'] for output in outputs if 'image/png' in output.get('metadata', {})]
        page = pages[re.sub(r'^\d+[a-z]?_', '', path.stem)]
        for img in re.findall(r'<img\b[^>]*img-fluid[^>]*>', page): assert int(re.search(r'\bwidth="(\d+)"', img)[1]) in widths, path.name

def test_a_page_and_its_pictures_are_small(pages):
    "So that a page is soon there on a slow line; style sheets and scripts come once for all pages."
    for name,page in pages.items():
        assert not re.search(r'<[^>]*;base64,', page), name # in a tag; code may speak of it
        files = set(re.findall(r'<img\b[^>]*\bsrc="([^"]+)"', page))
        assert len(page.encode()) + sum((DOCS/file).stat().st_size for file in files) < 1_500_000, name

def test_pictures_look_as_they_did():
    "Fewer colours only where that cannot be seen; where it could, as in a smooth run of all colours, none is taken away."
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
    assert (pixels(shrink(png(grey)))==grey).all() and (pixels(shrink(png(every)))==every).all() and (pixels(shrink(png(clear)))==255).all()
    noise = np.random.randint(0, 256, (64,64,3), dtype=np.uint8)
    assert (pixels(shrink(png(noise)))==noise).all()
    for picture in (grey, every, noise): assert len(shrink(png(picture))) <= len(png(picture))

def subtitle(name):
    "What the notebook of a page has as `> subtitle`."
    path, = (path for path in (ROOT/'nbs').glob('*.ipynb') if re.sub(r'^\d+[a-z]?_', '', path.stem)==name)
    return re.search(r'^> (.*)$', ''.join(json.loads(path.read_text(encoding='utf-8'))['cells'][0]['source']), re.M)[1]

def test_pages_say_what_they_are_about(pages):
    "In the window's title, to search engines, and on a social card."
    for name,page in pages.items():
        head = html.unescape(page[:page.index('</head>')])
        title = re.search(r'<h1 class="title">(.*?)</h1>', page)[1]
        has = lambda key,value: re.search(rf'<meta (?:name|property)="{key}" content="{value}', head)
        assert html.unescape(title) in re.search('<title>(.*?)</title>', head, re.S)[1], name
        for key in ('description', 'og:description', 'twitter:description'): assert has(key, re.escape(subtitle(name))), (name, key)
        for key,value in {'og:title': re.escape(html.unescape(title)), 'og:type': 'website"' if name=='index' else 'article"', 'og:image': 'https://.*/card.png"', 'twitter:card': 'summary_large_image"'}.items():
            assert has(key, value), (name, key)
        assert f'<link rel="alternate" type="text/markdown" href="{name}.html.md">' in head, name
    assert (DOCS/'card.png').exists()

def test_code_on_a_page_is_that_of_its_notebook(pages):
    "To the last space, so that it can be copied, however its lines are broken; and each knows how far it is indented. (Quarto has its own way.)"
    for path in (ROOT/'nbs').glob('*.ipynb'):
        page = pages[re.sub(r'^\d+[a-z]?_', '', path.stem)]
        if '<span class="line"' not in page: continue
        cells = [cell for cell in json.loads(path.read_text(encoding='utf-8'))['cells'] if cell['cell_type']=='code']
        sources = {re.sub(r'^#\|.*\n?', '', ''.join(cell['source']), flags=re.M).strip('\n') for cell in cells}
        shown = {text_of(code) for code in re.findall(r'<pre class="sourceCode[^>]*cell-code[^>]*>(.*?)</pre>', page, re.S)}
        assert shown and shown <= sources, (path.name, shown-sources)
        for indent,line in re.findall(r'<span class="line" style="--indent:(\d+)ch">(.*)', page): assert re.match(rf' {{{indent}}}', text_of(line)), line

@pytest.fixture(scope='session')
def copies(): return {p.name.removesuffix('.html.md'): p.read_text(encoding='utf-8') for p in DOCS.glob('*.html.md')}

def test_every_page_has_a_copy_in_markdown(pages, copies):
    assert sorted(copies) == sorted(pages)
    for name,copy in copies.items():
        assert not re.search(r';base64,[\w+/]{40}', copy) and not re.search('<(img|details)', prose_of(copy)) and '\n<IPython' not in copy and ':::' not in prose_of(copy) and not re.search(r'^#\|', copy, re.M), name
        assert copy.startswith('# ') and f'\n> {subtitle(name)}\n' in copy, name
        for heading in re.findall(r'<h2[^>]*data-anchor-id[^>]*>(.*?)</h2>', pages[name]): assert re.search(rf'^## {re.escape(text_of(heading))}$', plain(copy), re.M), (name, heading)
        for alt in re.findall(r'<img\b[^>]*\balt="([^"]{10,})"', pages[name]): assert html.unescape(alt) in copy, (name, alt)
    assert 'class Runner' in copies['callbacks'] and 'class="cell' not in copies['callbacks']

def prose_of(copy): return re.sub(r'^(`{3,}).*?^\1$', '', copy, flags=re.M|re.S)

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
    assert entries == [(name, subtitle(name)) for name in ORDER]

def test_readme_is_what_the_notebook_makes(): subprocess.run([sys.executable, ROOT/'tools'/'readme.py', '--check'], check=True)

def test_links_resolve(): assert broken_links(DOCS) == []

@pytest.mark.parametrize('harm, reason', [
    (('href="data.html"', 'href="dota.html"'), 'no such file'),
    (('callbacks.html#runner"', 'callbacks.html#ranner"'), 'no such anchor'),
    (('<main', '<img src="missing.png"><main'), 'no such file'),
    (('href="data.html"', 'href="../README.md"'), 'outside the site')])
def test_a_broken_link_is_found(tmp_path, harm, reason):
    shutil.copytree(DOCS, tmp_path/'docs')
    page = tmp_path/'docs'/'anneal.html'
    text = page.read_text(encoding='utf-8').replace('href="./data.html"', 'href="data.html"')
    assert harm[0] in text
    page.write_text(text.replace(*harm), encoding='utf-8')
    assert any(reason in line for line in broken_links(tmp_path/'docs'))
    run = subprocess.run([sys.executable, ROOT/'tools'/'site_links.py', tmp_path/'docs'], capture_output=True, text=True)
    assert run.returncode == 1 and reason in run.stdout

def test_a_broken_notebook_stops_the_build(tmp_path):
    "A checkout of two notebooks, one of them with faults, built as `make site` does."
    for name in ('tools', 'lesson9'): shutil.copytree(ROOT/name, tmp_path/name, ignore=shutil.ignore_patterns('mnist', '__pycache__'))
    (tmp_path/'nbs').mkdir()
    for name in ('settings.ini', '_quarto.yml', 'nbs/index.ipynb', 'nbs/00_data.ipynb', 'nbs/styles.css', 'nbs/logo.svg'): shutil.copy(ROOT/name, tmp_path/name)
    (tmp_path/'nbs'/'_quarto.yml').symlink_to('../_quarto.yml')
    path = tmp_path/'nbs'/'00_data.ipynb'
    notebook = json.loads(path.read_text(encoding='utf-8'))
    faults = '[gone](09_gone.ipynb), [lost](index.ipynb#lost) and ![a picture that is not there](none.png); a file named 00_data.ipynb here'
    notebook['cells'].insert(2, dict(cell_type='markdown', id='faults', metadata={}, source=faults))
    path.write_text(json.dumps(notebook), encoding='utf-8')
    run = subprocess.run([sys.executable, 'tools/build_site.py'], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(tmp_path)})
    assert run.returncode == 1, run.stderr
    for line in ('data.html: 09_gone.html (no such file)', 'data.html: index.html#lost (no such anchor)', 'data.html: none.png (no such file)'):
        assert line in run.stdout.replace('09_gone.ipynb', '09_gone.html')
    assert 'a file named 00_data.ipynb here' in (tmp_path/'_docs'/'data.html').read_text(encoding='utf-8') # only links are renamed

def test_cells_for_readers_are_saved_without_output():
    "What a slider showed when somebody moved it is no use to anybody else; `make lessons` clears it."
    for path in sorted((ROOT/'nbs').glob('*.ipynb')):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            if '#| notest' in ''.join(cell['source']): assert cell['outputs']==[], (path.name, cell['id'])
