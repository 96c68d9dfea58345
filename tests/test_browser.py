"""The built site in headless Chromium, as a reader meets it.

Needs playwright and axe-playwright-python, which .venv has, and a Chromium. Where one is missing, the tests are
skipped and say so."""
import html, re
from functools import partial
from pathlib import Path

import pytest

pytestmark = pytest.mark.site
DOCS = Path(__file__).resolve().parent.parent/'_docs'
PAGES = sorted(p.name for p in DOCS.glob('*.html'))

# Light or dark

DARK = "(([r,g,b]) => r+g+b < 3*128)(getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number))"
# smalldocs marks <html>, Quarto marks <body>
MARKED_DARK = "document.documentElement.matches('.quarto-dark, :has(> body.quarto-dark)')"

def is_dark(tab): return tab.evaluate(DARK)

BUTTON = """() => {
    const all = [...document.querySelectorAll('.quarto-color-scheme-toggle')]
    const {x, y, width, height} = all.find(e => e.checkVisibility()).getBoundingClientRect()
    return [x+width/2, y+height/2]
}"""

def toggle(tab):
    "Press the button for the other colour scheme, and wait until the page has changed completely."
    before = is_dark(tab)
    tab.mouse.click(*tab.evaluate(BUTTON))
    changed = f'before => {DARK} != before && {MARKED_DARK} != before && !document.getAnimations().length'
    tab.wait_for_function(changed, arg=before)

# Every page

UNFOLD = "document.querySelectorAll('details').forEach(fold => fold.open = true)"

BOXES = "[...document.querySelectorAll('html, #quarto-header, #quarto-content, main')]"

def sideways(tab, width):
    "How much wider the page is than a window of this width, cut off or not. The window keeps this width."
    tab.set_viewport_size(dict(width=width, height=900))
    return tab.evaluate(f"Math.max(...{BOXES}.map(e => e.scrollWidth-e.clientWidth))")

# Whether the right side of something is elsewhere than when REMEMBER was evaluated
RIGHT = "e.getBoundingClientRect().right"
REMEMBER = f"void (window.sides = new Map([...document.querySelectorAll('body *')].map(e => [e, {RIGHT}])))"
MOVED    = f"[...sides].some(([e, side]) => {RIGHT} != side)"

# Elements with text that look alike: the same tags, classes and colours from <body> down. A rule about colours says
# the same of all of them, and takes most of axe's time, so one sample is enough: the first on a page, unless an
# earlier page had one. Adds the samples to `samples`, and what they stand in to `kept`; returns their looks, as
# numbers.
SAMPLE = """known => {
    const looks = new Map(), found = new Set(known)
    const number = text => [...text].reduce((n, c) => (n*31 + c.codePointAt(0)) % 290000000000021, 0)
    const look = e => {
        if (!looks.has(e)) {
            const s = getComputedStyle(e), parent = e == document.body ? '' : look(e.parentElement)
            looks.set(e, number([parent, e.tagName, e.className, s.color, s.backgroundColor, s.backgroundImage,
                                 s.opacity, s.filter, s.fontSize, s.fontWeight, s.textDecorationLine].join()))
        }
        return looks.get(e)
    }
    const isText = node => node.nodeType == Node.TEXT_NODE && node.textContent.trim()
    const hasText = e => [...e.childNodes].some(isText)
    window.samples ??= new Set()
    window.kept ??= new Set()
    for (let e of document.querySelectorAll('body *')) {
        if (!hasText(e) || found.has(look(e))) continue
        found.add(look(e))
        samples.add(e)
        for (; e; e = e.parentElement) kept.add(e)
    }
    return [...found]
}"""

# Code without the elements that only colour it: most of a page's elements. Then without those of its lines, too.
PLAIN_TOKENS = """() => {
    for (const token of document.querySelectorAll('pre span:not(.line)'))
        if (!kept.has(token)) token.replaceWith(token.textContent)
}"""
PLAIN_LINES = """() => {
    for (const line of document.querySelectorAll('pre .line'))
        if (!kept.has(line)) line.replaceWith(line.textContent)
}"""

# Only samples and what they stand in, and the button for the other scheme
ONLY_SAMPLES = """() => {
    for (let e of document.querySelectorAll('.quarto-color-scheme-toggle, .quarto-color-scheme-toggle *'))
        for (; e; e = e.parentElement) kept.add(e)
    for (const e of document.querySelectorAll('body *')) if (!kept.has(e)) e.remove()
}"""

@pytest.fixture(scope='session')
def known_looks(): return set()

COLOUR_RULES = ['color-contrast', 'link-in-text-block']
OTHER_RULES = {rule: dict(enabled=False) for rule in (*COLOUR_RULES, 'region')} # `region` is never serious

def violations(tab, where, **options):
    "What axe finds serious or critical."
    found = tab.evaluate(f"""async options => {{
        const {{violations}} = await axe.run({where}, {{resultTypes: ['violations'], ...options}})
        return violations.map(v => [v.impact, v.id, v.nodes.map(n => n.html.slice(0, 120)).slice(0, 3)])
    }}""", options)
    return [v for v in found if v[0] in ('serious', 'critical')]

def colour_violations(tab):
    return violations(tab, '{include: [...samples]}', runOnly=COLOUR_RULES)

@pytest.mark.parametrize('page', PAGES)
def test_page_loads_by_itself_fits_and_can_be_read_by_all(tab, axe, known_looks, page):
    """No console error, no request to another host, nowhere wider than its window, nothing serious for axe: in light
    and dark, wide and narrow. A page is loaded once, and what doesn't depend on colours is looked at once."""
    tab.set_viewport_size(dict(width=390, height=900))
    tab.goto(f'/{page}')
    tab.evaluate(UNFOLD)
    assert not is_dark(tab) and sideways(tab, 390) == 0
    looks = tab.evaluate(SAMPLE, [*known_looks])
    tab.evaluate(PLAIN_TOKENS) # they change no widths, and changing the window's width takes half as long without them
    assert [sideways(tab, width) for width in (768, 1440)] == [0, 0]
    tab.evaluate(REMEMBER)
    toggle(tab)
    assert is_dark(tab)
    widths = [1440, 768, 390] if tab.evaluate(MOVED) else [1440, 390] # to change the width takes long
    assert [width for width in widths if sideways(tab, width)] == []
    looks += tab.evaluate(SAMPLE, [*known_looks])

    tab.add_script_tag(url=axe)
    tab.evaluate(PLAIN_LINES)
    assert violations(tab, 'document', rules=OTHER_RULES) == []
    if tab.evaluate('samples.size'):
        tab.evaluate(ONLY_SAMPLES)
        assert colour_violations(tab) == []
        sideways(tab, 1440) # wide enough for the button
        toggle(tab)
        assert not is_dark(tab) and colour_violations(tab) == []
        known_looks.update(looks) # now that they have passed
    assert (tab.errors, tab.strangers) == ([], [])

# Questions and answers

SUMMARY = re.compile(r'<details[^>]*class="question"[^>]*>\s*<summary>(.*?)</summary>', re.S)

@pytest.fixture
def question():
    "A page with a question, and the question."
    found = ((page, SUMMARY.search((DOCS/page).read_text(encoding='utf-8'))) for page in PAGES)
    page,match = next((page, match) for page,match in found if match)
    return page, html.unescape(re.sub('<[^>]+>', '', match[1]))

def test_what_is_folded_opens_by_mouse_and_by_keyboard(tab, question):
    tab.goto(f'/{question[0]}')
    kinds = ['details.question', 'details:has(> summary:text-is("Answer"))']
    for folds in map(tab.locator, kinds):
        assert folds.count() >= 1
        fold,summary = folds.first,folds.first.locator('summary')
        inside = fold.locator('> :not(summary)').first
        summary.focus()
        def press(key): return partial(tab.keyboard.press, key)
        for act,shown in [(summary.click, True), (press('Enter'), False), (press('Space'), True)]:
            assert inside.is_visible() != shown
            act()
            assert inside.is_visible() == shown

# Schemes, phones

def test_dark_mode_toggles_and_stays(tab):
    tab.goto('/index.html')
    before = is_dark(tab)
    toggle(tab)
    tab.goto('/data.html')
    assert is_dark(tab) != before
    tab.reload()
    assert is_dark(tab) != before
    assert sideways(tab, 768) == 0 # this width is the one that isn't looked at in the dark on every page
    sideways(tab, 1280)
    toggle(tab)
    tab.reload()
    assert is_dark(tab) == before

@pytest.mark.parametrize('page, drawing', [('show_loop.html', '.loop-drawing'), ('journey.html', '.journey')])
def test_what_is_wider_than_a_phone_scrolls_by_itself(tab, page, drawing):
    "In its own size, and by keyboard, too."
    tab.set_viewport_size(dict(width=390, height=844))
    tab.goto(f'/{page}')
    box = tab.locator(drawing).first
    assert box.evaluate('e => e.scrollWidth > 1.5*e.clientWidth && e.clientWidth <= 390')
    full_size = """(e, side) => [...e.querySelectorAll('svg')].every(
        svg => svg.getBoundingClientRect()[side] >= svg.getAttribute(side))"""
    for side in ('width', 'height'): assert box.evaluate(full_size, side)
    assert box.evaluate("""e => [...e.querySelectorAll('pre')].every(
        pre => getComputedStyle(pre).whiteSpace == 'pre' && pre.scrollWidth <= pre.clientWidth+1)""")
    assert box.evaluate('e => new Set([...e.children].map(card => card.offsetTop)).size') == 1 # side by side
    box.focus()
    tab.keyboard.press('ArrowRight')
    tab.wait_for_function('box => box.scrollLeft > 0', arg=box.element_handle())

@pytest.mark.parametrize('width', [390, 1280])
def test_the_list_of_lessons_shows_where_one_is(tab, width):
    "Wide beside the text, and on a phone when it's opened."
    tab.set_viewport_size(dict(width=width, height=844))
    tab.goto('/reference.html') # the last one
    if width==390: tab.locator('.quarto-btn-toggle:visible').first.click()
    tab.wait_for_function("""() => {
        const bar = document.querySelector('#quarto-sidebar').getBoundingClientRect()
        const link = document.querySelector('#quarto-sidebar .sidebar-link.active').getBoundingClientRect()
        return bar.top <= link.top && link.bottom <= Math.min(bar.bottom, innerHeight) && link.left >= 0
    }""", timeout=5000)
    assert tab.evaluate('scrollY')==0

@pytest.mark.parametrize('page', ['glossary.html', 'callbacks.html'])
def test_a_table_breaks_no_word_on_a_phone(tab, page):
    tab.set_viewport_size(dict(width=390, height=844))
    tab.goto(f'/{page}')
    one_word = "e => e.checkVisibility() && /^\\w+$/.test(e.textContent)"
    links = f"[...document.querySelectorAll('main td a')].filter({one_word})"
    assert tab.evaluate(f'{links}.length') > 1
    assert tab.evaluate(f'{links}.filter(e => e.getClientRects().length > 1).map(e => e.textContent)') == []

def test_sidebar_on_a_phone(tab):
    tab.set_viewport_size(dict(width=390, height=844))
    tab.goto('/data.html')
    sidebar,button = tab.locator('#quarto-sidebar'),tab.locator('.quarto-btn-toggle:visible').first
    def shown(wanted):
        tab.wait_for_function("""wanted => {
            const bar = document.querySelector('#quarto-sidebar'), box = bar.getBoundingClientRect()
            const visible = getComputedStyle(bar).visibility == 'visible' && box.width > 0 && box.right > 0
            return wanted == (visible && (!wanted || box.left >= 0))
        }""", arg=wanted, timeout=5000)
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

# Copying

COPIED = """async () => {
    const pairs = []
    for (const button of document.querySelectorAll('.code-copy-button')) {
        const code = button.closest('div.sourceCode, .code-copy-outer-scaffold').querySelector('code')
        if (!code.checkVisibility()) continue
        await navigator.clipboard.writeText('')
        button.click()
        let text = ''
        for (let n = 0; n < 100 && !text; n++) {
            await new Promise(done => setTimeout(done, 10))
            text = await navigator.clipboard.readText()
        }
        pairs.push([text, code.textContent])
    }
    return pairs
}"""

def test_what_the_copy_button_copies_is_the_code(tab):
    tab.context.grant_permissions(['clipboard-read', 'clipboard-write'])
    tab.goto('/callbacks.html')
    pairs = tab.evaluate(COPIED)
    assert len(pairs) > 10 and any('\n\n' in code for _,code in pairs)
    for copied,code in pairs: assert copied.rstrip('\n') == code.rstrip('\n')
