"The browser that the site's tests and those of JupyterLab share: Playwright runs once in a process."
import shutil

import pytest

@pytest.fixture(scope='session')
def browser():
    "Headless Chromium; without it, or without playwright, its tests are skipped, and say so."
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: no browser test was run')
    chromium = next(filter(None, map(shutil.which, ['chromium', 'chromium-browser', 'google-chrome'])), None)
    if not chromium: pytest.skip('no Chromium on the PATH: no browser test was run')
    with sync_api.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'], timeout=180_000)
        yield browser
        browser.close()
