"""The built site in headless Chromium, as a reader meets it. Needs playwright and axe-playwright-python, which .venv has, and a Chromium;
where one is missing, the reason is among the skipped tests."""
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent/'_docs'
PAGES = sorted(p.name for p in DOCS.glob('*.html'))

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@pytest.fixture(scope='session')
def address():
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=DOCS)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()

@pytest.fixture(scope='session')
def axe():
    package = pytest.importorskip('axe_playwright_python', reason='axe-playwright-python is not installed: pages were not checked by axe')
    return next(Path(package.__file__).parent.rglob('axe.min.js')).read_text(encoding='utf-8')

@pytest.fixture
def tab(browser, address):
    context = browser.new_context(base_url=address, viewport=dict(width=1280, height=900))
    yield context.new_page()
    context.close()

DARK = "(([r,g,b]) => r+g+b < 3*128)(getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number))"
def is_dark(tab): return tab.evaluate(DARK)

def toggle(tab):
    "Press the button for the other colour scheme, and wait until it has come."
    before = is_dark(tab)
    tab.locator('.quarto-color-scheme-toggle:visible').first.click()
    tab.wait_for_function(f'before => {DARK} != before', arg=before)
    tab.wait_for_function("() => document.documentElement.matches('.quarto-dark') || document.body.matches('.quarto-dark') || " + f'!({DARK})')

def unfold(tab):
    "Open whatever is folded, so that it is looked at, too."
    tab.evaluate("""() => { document.querySelectorAll('details').forEach(fold => fold.open = true)
                            document.querySelectorAll('.callout-collapse').forEach(fold => fold.classList.add('show')) }""")

def sideways(tab, width):
    "How much wider than a window of this width the page is, be it cut off or not; leaves the window so."
    tab.set_viewport_size(dict(width=width, height=900))
    return tab.evaluate("Math.max(...[...document.querySelectorAll('html, #quarto-header, #quarto-content, main')].map(e => e.scrollWidth-e.clientWidth))")

def violations(tab, axe):
    "What axe finds serious or critical. One token of each colour of code is enough: a long page has thousands."
    tab.evaluate("""() => { const seen = new Set()
                            document.querySelectorAll('pre .line').forEach(line => line.replaceWith(...line.childNodes))
                            document.querySelectorAll('pre span').forEach(s => seen.has(s.className) ? s.replaceWith(s.textContent) : seen.add(s.className)) }""")
    tab.evaluate(f'{axe}; undefined') # no value that would have to be sent back
    found = tab.evaluate("axe.run(document, {resultTypes: ['violations']}).then(result => result.violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 120)).slice(0, 3)]))")
    return [v for v in found if v[0] in ('serious', 'critical')]

@pytest.mark.parametrize('page', PAGES)
def test_page_loads_by_itself_fits_and_can_be_read_by_all(tab, address, axe, page):
    "No console error, no request to another host, nowhere wider than its window, nothing serious for axe; in light and dark, wide and narrow."
    errors,strangers = [],[]
    tab.on('console', lambda m: m.type=='error' and errors.append(m.text))
    tab.on('pageerror', lambda e: errors.append(str(e)))
    tab.on('request', lambda r: r.url.startswith((address, 'data:')) or strangers.append(r.url))
    tab.goto(f'/{page}', wait_until='networkidle')
    unfold(tab)
    assert not is_dark(tab) and [sideways(tab, width) for width in (390, 768, 1440)] == [0, 0, 0]
    assert violations(tab, axe) == []
    toggle(tab)
    assert is_dark(tab) and [sideways(tab, width) for width in (1440, 768, 390)] == [0, 0, 0]
    assert violations(tab, axe) == []
    assert (errors, strangers) == ([], [])

@pytest.mark.parametrize('word, page', [('DeviceCallback', 'callbacks.html'), ('coroutine', 'minibatch_training.html'), ('square images', 'why_sqrt5.html')])
def test_search_leads_to_the_heading_over_the_word(tab, word, page):
    tab.goto('/index.html')
    tab.locator('#quarto-search input, .aa-Input').first.click()
    tab.keyboard.type(word, delay=20)
    link = tab.locator(f'a[href*="{page}#"]:visible', has_text=word).first
    link.wait_for(timeout=10_000)
    link.click()
    tab.wait_for_url(f'**/{page}*')
    tab.wait_for_load_state('load')
    anchor = tab.evaluate('decodeURIComponent(location.hash.slice(1))')
    section = tab.locator(f'[id="{anchor}"]')
    assert word in section.evaluate('e => (e.closest("section") ?? e).textContent')
    heading = tab.locator(f'[id="{anchor}"]:is(h1, h2, h3, h4), [id="{anchor}"] :is(h1, h2, h3, h4, .callout-header)').first.bounding_box()
    header = tab.locator('#quarto-header').bounding_box()
    assert header['y']+header['height'] <= heading['y'] < 450, 'the heading is not in the upper half of the window'

def test_dark_mode_toggles_and_stays(tab):
    tab.goto('/index.html')
    before = is_dark(tab)
    toggle(tab)
    tab.goto('/callbacks.html')
    assert is_dark(tab) != before
    tab.reload()
    assert is_dark(tab) != before
    toggle(tab)
    tab.reload()
    assert is_dark(tab) == before

def test_a_folded_answer_opens_by_mouse_and_by_keyboard(tab):
    tab.goto('/callbacks.html')
    answers = tab.locator('details:has(> summary:text-is("Answer"))')
    assert answers.count() >= 3
    assert not answers.nth(0).evaluate('e => e.open')
    answers.nth(0).locator('summary').click()
    answers.nth(1).locator('summary').focus()
    tab.keyboard.press('Enter')
    assert answers.nth(0).evaluate('e => e.open') and answers.nth(1).evaluate('e => e.open')

def test_a_folded_callout_opens_by_mouse_and_by_keyboard(tab):
    tab.goto('/callbacks.html')
    callout = tab.locator('.callout:has(> .callout-header[data-bs-toggle])').first
    header,body = callout.locator('> .callout-header'),callout.locator('.callout-body')
    header.focus()
    settled = lambda: tab.wait_for_function("() => !document.querySelector('.collapsing')")
    for act,shown in ((header.click, True), (partial(tab.keyboard.press, 'Enter'), False), (partial(tab.keyboard.press, 'Space'), True)):
        assert body.is_visible() != shown and header.get_attribute('aria-expanded') == str(not shown).lower()
        act()
        settled()
        assert body.is_visible() == shown and header.get_attribute('aria-expanded') == str(shown).lower()

@pytest.mark.parametrize('page, drawing', [('show_loop.html', '.loop-drawing'), ('journey.html', '.journey')])
def test_what_is_wider_than_a_phone_scrolls_by_itself(tab, page, drawing):
    "In its own size, and by keyboard, too."
    tab.set_viewport_size(dict(width=390, height=844))
    tab.goto(f'/{page}')
    box = tab.locator(drawing).first
    assert box.evaluate('e => e.scrollWidth > 1.5*e.clientWidth && e.clientWidth <= 390')
    for side in ('width', 'height'): assert box.evaluate("(e, side) => [...e.querySelectorAll('svg')].every(svg => svg.getBoundingClientRect()[side] >= svg.getAttribute(side))", side)
    assert box.evaluate("e => [...e.querySelectorAll('pre')].every(pre => getComputedStyle(pre).whiteSpace == 'pre' && pre.scrollWidth <= pre.clientWidth+1)")
    assert box.evaluate('e => new Set([...e.children].map(card => card.offsetTop)).size') == 1 # side by side
    box.focus()
    tab.keyboard.press('ArrowRight')
    tab.wait_for_function('box => box.scrollLeft > 0', arg=box.element_handle())

def test_sidebar_on_a_phone(tab):
    tab.set_viewport_size(dict(width=390, height=844))
    tab.goto('/callbacks.html')
    sidebar,button = tab.locator('#quarto-sidebar'),tab.locator('.quarto-btn-toggle:visible').first
    def shown(wanted):
        tab.wait_for_function("""wanted => { const bar = document.querySelector('#quarto-sidebar'), box = bar.getBoundingClientRect()
            return wanted == (getComputedStyle(bar).visibility == 'visible' && box.width > 0 && box.right > 0 && (!wanted || box.left >= 0)) }""", arg=wanted, timeout=5000)
    shown(False)
    button.click()
    shown(True)
    tab.mouse.click(380, 600) # beside it
    shown(False)
    button.click()
    shown(True)
    sidebar.get_by_role('link', name='Annealing').click()
    tab.wait_for_url('**/anneal.html')
    shown(False)
    assert sideways(tab, 390) == 0
