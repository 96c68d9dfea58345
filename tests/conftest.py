"The browser of all tests that need one: it starts once."
import os, shutil, sys

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
