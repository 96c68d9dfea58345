"The built site in headless Chromium, as a reader meets it. Needs playwright, which .venv has, and a Chromium."
import shutil, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parent.parent/'_docs'
CHROMIUM = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: no browser test was run')
if not CHROMIUM: pytest.skip('no Chromium on the PATH: no browser test was run', allow_module_level=True)
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
def browser():
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()

@pytest.fixture
def tab(browser, address):
    context = browser.new_context(base_url=address, viewport=dict(width=1280, height=900))
    yield context.new_page()
    context.close()

@pytest.mark.parametrize('page', PAGES)
def test_page_loads_by_itself(tab, address, page):
    "No console error, no request to another host, and no wider than a phone or a screen."
    errors,strangers = [],[]
    tab.on('console', lambda m: m.type=='error' and errors.append(m.text))
    tab.on('pageerror', lambda e: errors.append(str(e)))
    tab.on('request', lambda r: r.url.startswith((address, 'data:')) or strangers.append(r.url))
    tab.goto(f'/{page}', wait_until='networkidle')
    for width in (390, 768, 1440):
        tab.set_viewport_size(dict(width=width, height=900))
        assert tab.evaluate('document.documentElement.scrollWidth') <= width, f'{page} scrolls sideways at {width} px'
    assert (errors, strangers) == ([], [])

@pytest.mark.parametrize('word, page', [('DeviceCallback', 'callbacks.html'), ('coroutine', 'minibatch_training.html')])
def test_search_finds(tab, word, page):
    tab.goto('/index.html')
    tab.locator('#quarto-search input, .aa-Input').first.click()
    tab.keyboard.type(word, delay=20)
    link = tab.locator(f'a[href*="{page}"]:visible', has_text=word).first
    link.wait_for(timeout=10_000)
    link.click()
    tab.wait_for_url(f'**/{page}*')
    anchor = tab.evaluate('decodeURIComponent(location.hash.slice(1))')
    assert not anchor or tab.locator(f'[id="{anchor}"]').count() == 1

def is_dark(tab): return tab.evaluate("(([r,g,b]) => r+g+b < 3*128)(getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number))")

def test_dark_mode_toggles_and_stays(tab):
    tab.goto('/index.html')
    before = is_dark(tab)
    tab.locator('.quarto-color-scheme-toggle:visible').first.click()
    tab.wait_for_function("before => (([r,g,b]) => r+g+b < 3*128)(getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)) != before", arg=before)
    tab.goto('/callbacks.html')
    assert is_dark(tab) != before

def test_a_folded_answer_opens_by_mouse_and_by_keyboard(tab):
    tab.goto('/callbacks.html')
    answers = tab.locator('details:has(> summary:text-is("Answer"))')
    assert answers.count() >= 3
    assert not answers.nth(0).evaluate('e => e.open')
    answers.nth(0).locator('summary').click()
    answers.nth(1).locator('summary').focus()
    tab.keyboard.press('Enter')
    assert answers.nth(0).evaluate('e => e.open') and answers.nth(1).evaluate('e => e.open')
