"""What tools/page_furniture.py puts around the text of each page: as functions, on the built site, and in the browser.
And what lets a notebook start in Colab and Binder."""
import copy, html, re, subprocess, sys, types
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT/'_docs'
sys.path.insert(0, str(ROOT/'tools'))
import colab
import test_browser
from measure import code_cells, notebooks
from page_furniture import (
    LOOKED_UP, built_on, changelog, facts, folded_contents, footer, minutes, needs, places, sidebar_titles, skip_link)

pytestmark = pytest.mark.site
NOTEBOOKS = {stem: nb for stem,nb in notebooks().items() if stem!='changelog'} # which has no code
SETTINGS = colab.settings()
FORK = types.SimpleNamespace(user='ada', repo='own', branch='dev', nbs_path=Path('/x/nbs'), title='lesson9',
                             version='7.8', git_url='https://github.com/ada/own')

# ---- the functions

def page(body, toc=''):
    main = f'<header id="title-block-header"><h1>T</h1></header>{body}'
    nav = f'<nav id="TOC" role="doc-toc">{toc}</nav>'
    return f'<body class="nav">{nav}<main class="content" id="quarto-document-content">{main}</main></body>'

def test_minutes_count_words_and_lines_but_nothing_folded():
    words,line = '<p>' + 'word '*460 + '1 2 3</p>','<span>x = 1</span>\n\n'
    assert minutes(page('')) == 1 and minutes(page(words)) == 2
    code = f'<pre class="sourceCode python"><code>{line*40}</code></pre>'
    assert minutes(page(words+code)) == 4 # empty lines take no time
    assert minutes(page(words + f'<details><summary>A</summary>{code}<details>{words}</details>{words}</details>')) == 2
    assert minutes(page(words + f'<pre><code>{line*40}</code></pre>')) == 2 # what a cell printed

def test_a_page_builds_on_what_is_not_built_on_already():
    direct = {'a': {'b'}, 'b': {'a'}, 'c': {'b', 'a'}, 'd': {'a', 'e'}, 'e': set()}
    assert built_on(direct) == {'a': [], 'b': ['a'], 'c': ['b'], 'd': ['a'], 'e': []} # and on nothing later

def test_addresses_follow_the_settings():
    assert places(FORK, 'x.ipynb') == {
        'Download the notebook': 'nbs/x.ipynb',
        'Open in Colab': 'https://colab.research.google.com/github/ada/own/blob/dev/nbs/x.ipynb',
        'Open in Binder': 'https://mybinder.org/v2/gh/ada/own/dev?urlpath=lab/tree/nbs/x.ipynb'}
    assert 'git+https://github.com/ada/own@dev ' in colab.first_lines(NOTEBOOKS['18_metrics'], vars(FORK) | dict(
        requirements='torch fastcore'))[0]

def test_the_line_stands_below_the_title():
    text = facts(page('<p>text</p>'), True, {'Data': 'data.html'}, {'Get it': 'nbs/a.ipynb', 'Out': 'https://x.org/a.ipynb'})
    line = re.search(r'</header><p class="lesson-facts">(.*?)</p><p>text', text)[1]
    assert line == ('1 min to read · builds on <a href="data.html">Data</a> · <a href="nbs/a.ipynb" download>Get it</a>'
                    ' · <a href="https://x.org/a.ipynb">Out</a>')

QUARTO = '''<h2 id="toc-title">On this page</h2>
  <ul>
  <li><a href="#a" id="toc-a" class="nav-link active" data-scroll-target="#a"><code>A</code></a>
  <ul class="collapse">
  <li><a href="#b.c" id="toc-b.c" class="nav-link" data-scroll-target="#b.c">B.<wbr>c</a></li>
  </ul></li>
  </ul><div class="toc-actions"><ul><li><a href="x">View source</a></li></ul></div>'''

def test_contents_are_plain_links():
    text = folded_contents(page('<p>text</p>', QUARTO))
    fold = re.search(r'</header>(<details.*?</details>)<p>text', text, re.S)[1]
    assert re.sub(r'\n\s*', '', fold) == (
        '<details class="page-contents"><summary>On this page</summary><ul><li><a href="#a">A</a>'
        '<ul><li><a href="#b.c">B.<wbr>c</a></li></ul></li></ul></details>')
    assert folded_contents('<body></body>') == '<body></body>'

def test_skip_link_and_footer():
    text = footer(skip_link(page('')) .replace('</body>', '<footer class="footer">theirs</footer></body>'), FORK)
    assert text.startswith('<body class="nav"><a class="skip-link" href="#quarto-document-content">')
    assert '<main tabindex="-1" class="content" id="quarto-document-content">' in text
    assert 'theirs' not in text and 'lesson9 7.8 · <a href="changelog.html">' in text
    assert 'href="https://github.com/ada/own/blob/dev/LICENSE"' in text

def test_changelog_as_a_page():
    links = '[a](nbs/05_anneal.ipynb#x) [b](LICENSE) [c](https://x.org)'
    assert changelog(f'# Changelog\n\n## Unreleased\n\n{links}\n\n## 0.1.0, 2020-01-01\n', FORK) == (
        '## Unreleased\n\n[a](05_anneal.ipynb#x) [b](https://github.com/ada/own/blob/dev/LICENSE) [c](https://x.org)\n\n'
        '## 0.1.0, 2020-01-01 {#v0.1.0}\n')

def test_every_release_has_a_date():
    heads = re.findall('^## (.*)$', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)
    assert all(re.fullmatch(r'Unreleased|\d[\w.]*, 20\d\d-\d\d-\d\d', head) for head in heads), heads
    assert any(head.startswith(SETTINGS['version']+',') for head in heads)

# ---- the site

@pytest.fixture(scope='module')
def pages():
    assert DOCS.exists(), 'no _docs/: run `make site` first'
    return {path.stem: path.read_text(encoding='utf-8') for path in DOCS.glob('*.html')}

def test_every_page_says_its_version_and_begins_with_the_skip_link(pages):
    start = f'<footer class="site-footer">lesson9 {SETTINGS["version"]} · <a href="changelog.html">'
    for name,text in pages.items():
        assert text.count(start) == 1, name
        assert text.count('<footer') == 1 and re.search(r'<body[^>]*><a class="skip-link"', text), name

def test_every_lesson_has_its_line(pages):
    titles = sidebar_titles(ROOT/'_quarto.yml')
    assert len(needs()) == len(NOTEBOOKS)-1
    for name,others in needs().items():
        text = pages[re.sub(r'^\d+[a-z]*_', '', Path(name).stem)]
        line = re.search(r'<p class="lesson-facts">(?:(\d+) min to read · )?(.*?)</p>', text)
        assert not line[1] if name in LOOKED_UP else 1 <= int(line[1]) < 100, (name, line[1])
        linked = re.findall(r'<a href="\w+\.html">(.*?)</a>', html.unescape(line[2]))
        assert linked == [titles[other] for other in others], name
        for place in places(types.SimpleNamespace(**SETTINGS), name).values(): assert place in line[2]
        assert (DOCS/'nbs'/name).read_bytes() == (ROOT/'nbs'/name).read_bytes()
    assert 'lesson-facts' not in pages['index']

def test_previous_and_next_say_where_they_lead(pages):
    titles = sidebar_titles(ROOT/'_quarto.yml')
    order = {re.sub(r'^\d+[a-z]*_', '', Path(name).stem): title for name,title in titles.items()}
    for page,before,after in zip(order, [None, *order], [*list(order)[1:], None]):
        nav = re.search(r'<nav[^>]*class="page-navigation".*?</nav>', pages[page], re.S)[0]
        found = re.findall(r'href="(?:\./)?(\w+)\.html"[^>]*>.*?class="nav-page-text">(.*?)</span>', nav, re.S)
        wanted = [(name, order[name]) for name in (before, after) if name]
        assert [(name, html.unescape(text).replace('’', "'")) for name,text in found] == wanted, page
    assert sum(text.count('nav-page-text') for text in pages.values()) == 2*len(order)-2

def test_changelog_is_a_page(pages):
    text = pages['changelog']
    assert re.search('<h1 class="title[^"]*">Changelog</h1>', text)
    heads = re.findall(r'^## ([\w.]+)', (ROOT/'CHANGELOG.md').read_text(encoding='utf-8'), re.M)
    for head in heads: assert f'id="{"unreleased" if head=="Unreleased" else "v"+head}"' in text, head
    assert '/blob/main/CHANGELOG.md"' in text and 'changelog.ipynb' not in text
    assert '<a href="checkpoint.html#checkpoint"><code>' in text or '<a href="tables.html#' in text

def test_contents_are_those_beside_the_text(pages):
    for name,text in pages.items():
        def hrefs(start, end): return re.findall('href="(#[^"]+)"', text[text.index(start):].split(end)[0])
        if 'id="TOC"' in text: assert hrefs('class="page-contents"', '</details>') == hrefs('id="TOC"', '</nav>'), name

# ---- Colab, Binder, sliders

@pytest.mark.parametrize('stem', NOTEBOOKS)
def test_a_notebook_starts_in_colab(stem):
    nb = copy.deepcopy(NOTEBOOKS[stem])
    assert not colab.set_up(nb, SETTINGS), 'run `python tools/colab.py`'

def test_what_colab_needs_is_found_in_the_cells():
    assert colab.first_lines(NOTEBOOKS['18_metrics'], SETTINGS)[0].endswith('@main torcheval torchmetrics')
    assert colab.first_lines(NOTEBOOKS['31_speed'], SETTINGS)[0].endswith('@main nbdev')
    reads = [stem for stem,nb in NOTEBOOKS.items() if colab.reads_files(nb)]
    assert reads == ['24b_checkpoint', '24h_distributed', '24i_scaling', '30a_language', '31_speed', '34_glossary',
                     '35_reference']

@pytest.mark.skipif(Path('/content').exists(), reason='there is a folder /content: the lines for Colab would install')
def test_the_lines_for_colab_do_nothing_here():
    lines = {line[1:] for nb in NOTEBOOKS.values() for line in colab.first_lines(nb, SETTINGS)}
    assert all(line.startswith('[ -d /content ] && ') for line in lines)
    done = subprocess.run(['sh', '-c', '\n'.join(lines)], capture_output=True, text=True)
    assert done.stdout == done.stderr == ''

def test_binder_installs_what_the_notebooks_import():
    lines = (ROOT/'binder'/'requirements.txt').read_text(encoding='utf-8').splitlines()
    lines = [line for line in lines if not line.startswith('#')]
    assert lines[:3] == ['--extra-index-url=https://download.pytorch.org/whl/cpu', 'torch', '-e .']
    imports = set().union(*map(colab.imports, NOTEBOOKS.values())) - colab.required(SETTINGS)
    with_jupyter = {'IPython', 'matplotlib_inline'}
    where = packages_distributions()
    wanted = {where[name][0] for name in imports - with_jupyter} | {'ipywidgets'} # for sliders, imported by name
    assert sorted(lines[3:], key=str.lower) == sorted(wanted, key=str.lower)
    python = (ROOT/'binder'/'runtime.txt').read_text().strip()
    assert re.fullmatch(r'python-3\.\d+', python) and int(python[9:]) >= int(SETTINGS['min_python'][2:])

def test_a_slider_shows_the_value_that_it_begins_with():
    "A slider goes in steps from its lower end: 0.2 isn't one of 0.01, 0.11, 0.21."
    widgets = pytest.importorskip('ipywidgets', reason='ipywidgets is not installed: no slider was tried')
    tried = []
    def interact(f, **settings):
        for child in widgets.interactive(f, **settings).children:
            if not hasattr(child, 'step'): continue
            steps = (child.value-child.min)/child.step
            assert abs(steps-round(steps)) < 1e-6, (child.description, child.value, child.min, child.step)
            tried.append(child.description)
    for nb in NOTEBOOKS.values():
        for cell in (cell for cell in code_cells(nb) if '.interact(' in cell.source):
            stand_in = types.SimpleNamespace(interact=interact, fixed=widgets.fixed)
            loader = types.SimpleNamespace(import_module=lambda name, stand_in=stand_in: stand_in,
                                           util=types.SimpleNamespace(find_spec=bool))
            draws = [re.sub(r':\n.*', ': pass', found) for other in code_cells(nb)
                     for found in re.findall(r'^def draw_\w+\(.*?\):\n', other.source, re.M)]
            names = dict(importlib=loader, shapes=dict(sched_cos=0), acts=dict(relu=0))
            exec('\n'.join(draws), names)
            exec(cell.source, names)
    assert {'end', 'top', 'g', 'width'} <= set(tried)

# ---- in the browser

def test_the_first_tab_stop_skips_to_the_text(tab):
    tab.goto('/data.html')
    tab.keyboard.press('Tab')
    shown = "(e => e.matches('.skip-link') && e.getBoundingClientRect().top >= 0)(document.activeElement)"
    tab.wait_for_function(shown)
    tab.keyboard.press('Enter')
    tab.wait_for_function("document.activeElement.matches('main')")
    tab.keyboard.press('Tab')
    assert tab.evaluate("document.activeElement.matches('main *')")
    assert tab.locator('.skip-link').evaluate('e => e.getBoundingClientRect().bottom < 0')

def test_header_and_sidebar_by_keyboard(tab):
    "Each link gets the focus, and a frame that shows it."
    tab.goto('/data.html')
    links = '#quarto-header a[href], #quarto-sidebar a[href], #TOC a[href]'
    wanted = set(tab.evaluate(f"""[...document.querySelectorAll('{links}')]
        .filter(e => e.checkVisibility()).map(e => e.href)"""))
    seen = set()
    for _ in range(len(wanted)+60):
        tab.keyboard.press('Tab')
        href,inside,framed = tab.evaluate("""(e => [e.href ?? '', e.matches('main *'),
            [getComputedStyle(e).outlineStyle, getComputedStyle(e).boxShadow].some(line => line != 'none')
        ])(document.activeElement)""")
        if inside and seen >= wanted: break
        assert inside or framed, href
        seen.add(href)
    assert seen >= wanted, wanted-seen

def test_contents_on_a_phone(tab):
    tab.goto('/anneal.html')
    fold,beside = tab.locator('details.page-contents'),tab.locator('#TOC')
    assert beside.is_visible() and not fold.is_visible()
    for width in (768, 390):
        tab.set_viewport_size(dict(width=width, height=844))
        assert fold.is_visible() and not beside.is_visible()
    tab.locator('details.page-contents summary').click()
    tab.locator('details.page-contents a', has_text='Combining schedules').click()
    tab.wait_for_function("""(([{top}, bar]) => top >= bar && top < 450)([document.querySelector('#combining-schedules')
        .getBoundingClientRect(), document.querySelector('#quarto-header').getBoundingClientRect().bottom-1])""")

CLOSED = """[...document.querySelectorAll('main details:not(.page-contents)')].filter(e =>
    e.getBoundingClientRect().height < e.querySelector('summary').getBoundingClientRect().height + 9).length"""
BARS = """[...document.querySelectorAll('#quarto-header, .sidebar, .page-navigation, footer, .skip-link')]
    .filter(e => e.checkVisibility()).length"""
CUT = """[...document.querySelectorAll('main :is(pre, table, div, p, svg)')]
    .filter(e => e.checkVisibility() && !e.closest('svg *') && e.getBoundingClientRect().right > innerWidth+1)
    .map(e => e.outerHTML.slice(0, 80))"""
BLACK = """[...document.querySelectorAll('main p, main pre span')]
    .every(e => getComputedStyle(e).color == 'rgb(0, 0, 0)')"""

@pytest.mark.parametrize('name', ['anneal', 'show_loop', 'journey'])
def test_paper_has_all_of_the_text_and_only_that(tab, name):
    "By the style sheet alone, and dark on white in the dark, too."
    tab.goto(f'/{name}.html')
    test_browser.toggle(tab)
    assert tab.evaluate(CLOSED) > 0
    try:
        tab.emulate_media(media='print')
        tab.set_viewport_size(dict(width=718, height=1000)) # A4 with Chromium's margins
        assert (tab.evaluate(CLOSED), tab.evaluate(BARS), tab.evaluate(CUT)) == (0, 0, [])
        assert tab.evaluate(BLACK)
    finally: tab.emulate_media(media='screen')

def test_folds_are_open_while_a_page_is_printed(tab):
    "In browsers, too, that don't know of `::details-content`."
    tab.goto('/anneal.html')
    open_ones = tab.evaluate("document.querySelectorAll('details[open]').length")
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.locator('main details:not([open])').count() == 0
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate("document.querySelectorAll('details[open]').length") == open_ones

@pytest.mark.parametrize('width', [390, 1280])
def test_without_javascript_from_a_file(browser, tab, width):
    "All of the text, nothing that does nothing, folds that open, and a way to the other pages."
    tab.goto('/anneal.html')
    text = "document.querySelector('main').textContent"
    expected = tab.evaluate(text)
    with browser.new_context(java_script_enabled=False, viewport=dict(width=width, height=900)) as context:
        plain = context.new_page()
        plain.goto((DOCS/'anneal.html').as_uri())
        assert plain.evaluate(text).split() == expected.split()
        for dead in '.quarto-color-scheme-toggle', '#quarto-search', '.code-copy-button', '.navbar-toggler':
            assert not any(e.is_visible() for e in plain.locator(dead).all()), dead
        assert plain.locator('#quarto-sidebar').get_by_role('link', name='Callbacks', exact=True).is_visible()
        assert plain.evaluate("""[...document.querySelectorAll('main :is(p, li, pre, td, img)')].filter(
            e => !e.closest('details') && !e.checkVisibility({visibilityProperty: true})).length""") == 0
        fold = plain.locator('main details.question').first
        fold.locator('summary').click()
        assert fold.locator('> :not(summary)').first.is_visible()
