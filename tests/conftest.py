"The browser of all tests that need one, and a tab of it with the built site: they start once."
import importlib, os, shutil, sys, threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

# With nbformat comes jsonschema, which imports this to check web addresses, and to build its grammar takes seconds.
# Without it, it leaves those checks out.
sys.modules['rfc3987_syntax'] = None

# A second thread makes training as small as ours slower. For notebooks their first cell, `%load_ext lesson9`, says so.
os.environ['OMP_NUM_THREADS'] = '1'

# The shell is Chromium without the windows that a person would see, which a full browser draws even when no one sees
# them.
BROWSERS = 'chromium-headless-shell', 'chromium', 'chromium-browser', 'google-chrome'

@pytest.fixture(scope='session')
def browser():
    "Headless Chromium; without it, or without playwright, its tests are skipped, and say so."
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: no browser test was run')
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not path: pytest.skip('no Chromium on the PATH: no browser test was run')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=['--no-sandbox'], timeout=180_000)
        yield browser
        browser.close()

# The built site

DOCS = Path(__file__).resolve().parent.parent/'_docs'
AXE = '/axe.min.js' # served as if it were part of the site, so that the browser compiles it once

class Site(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass
    def translate_path(self, path): return axe_file() if path==AXE else super().translate_path(path)

def axe_file():
    package = importlib.import_module('axe_playwright_python')
    return str(next(Path(package.__file__).parent.rglob(AXE[1:])))

@pytest.fixture(scope='session')
def address():
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Site, directory=DOCS)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f'http://127.0.0.1:{server.server_port}'
        server.shutdown()

@pytest.fixture(scope='session')
def axe():
    "The address of axe's script."
    reason = 'axe-playwright-python is not installed: pages were not checked by axe'
    pytest.importorskip('axe_playwright_python', reason=reason)
    return AXE

@pytest.fixture(scope='session')
def only_tab(browser, address):
    "One for all tests: a new tab is a new process, which compiles style sheets and scripts again."
    with browser.new_context(base_url=address) as context:
        tab = context.new_page()
        tab.errors,tab.strangers = [],[]
        tab.on('console', lambda m: m.type=='error' and tab.errors.append(m.text))
        tab.on('pageerror', lambda e: tab.errors.append(str(e)))
        tab.on('request', lambda r: r.url.startswith((address, 'data:')) or tab.strangers.append(r.url))
        yield tab

@pytest.fixture
def tab(only_tab):
    "The tab, light and wide. `errors` are those of its console, `strangers` the requests to other hosts."
    for found in only_tab.errors,only_tab.strangers: found.clear()
    only_tab.set_viewport_size(dict(width=1280, height=900))
    yield only_tab
    if only_tab.url.startswith('http'): only_tab.evaluate('localStorage.clear()') # a page keeps the scheme there
