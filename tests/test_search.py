"""The search of the built site: what its index knows, what comes first, and how the field behaves in a browser."""
import json, re, sys
from pathlib import Path

import pytest
from test_browser import is_dark, sideways, toggle, violations

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT/'_docs'
sys.path.insert(0, str(ROOT/'tools'))
from search_index import kind_of, page_entries, plain

pytestmark = pytest.mark.site

# The index

@pytest.fixture(scope='session')
def index():
    text = (DOCS/'search_index.js').read_text(encoding='utf-8')
    return json.loads(text.removeprefix('window.searchIndex = '))

@pytest.fixture(scope='session')
def pages(): return {path.name: path.read_text(encoding='utf-8') for path in DOCS.glob('*.html')}

def test_each_entry_leads_somewhere(index, pages):
    assert {entry['href'] for entry in index if entry['kind']=='page'}==set(pages)
    for entry in index:
        page,_,anchor = entry['href'].partition('#')
        assert entry['name'] and (not anchor or f'id="{anchor}"' in pages[page]), entry['href']

def test_index_knows_what_stands_on_a_page(index, pages):
    "All code, also what stands behind a `<`, which looks like the beginning of a tag; and all questions."
    known = {}
    for entry in index:
        page = entry['href'].split('#')[0]
        known[page] = f"{known.get(page, '')} {entry['code']}"
    entries = {entry['href']: entry for entry in index}
    question = re.compile(r'<details id="([^"]+)" class="question">\s*<summary>(.*?)</summary>', re.S)
    for name,page in pages.items():
        for code in re.findall(r'<pre class="sourceCode[^>]*>(.*?)</pre>', page, re.S):
            assert plain(code) in known[name], (name, plain(code)[:80])
        for anchor,words in question.findall(page):
            entry = entries[f'{name}#{anchor}']
            assert (entry['kind'], entry['name'])==('question', plain(words)) and len(entry['text'])>20, entry['href']

def test_kinds_of_entries(index):
    kinds = {(entry['href'], entry['kind']) for entry in index if entry['kind'] not in ('term', 'task')}
    assert kinds > {
        ('callbacks.html', 'page'), ('callbacks.html#the-order-of-callbacks', 'section'),
        ('callbacks.html#runner', 'class'), ('callbacks.html#runner.fit', 'method'),
        ('lr_find.html#lr_find', 'function'), ('data.html#mnist', 'section')}
    for name,code,kind in [
        ('Saver', 'class Saver(path)', 'class'), ('save', 'save(path)', 'function'), ('Saver', 'Saver', 'section'),
        ('A.save', 'A.save(path)', 'method'), ('A.save', '@patch\ndef save(self:A)', 'method'),
    ]:
        assert kind_of(name, f'<p>Text</p><pre><code>{code}</code></pre>')==kind, (name, code)
    assert any(entry['kind']=='term' and entry['name']=='order' for entry in index) # of the glossary

TASKS = '''<main><header><h1 class="title">Reference</h1><div class="description">All names</div></header>
<p>Before.</p><section id="what" class="level2"><h2>What do I use for</h2><table class="caption-top table"><thead>
<tr class="header"><th>task</th><th>also called</th><th>use</th><th>where</th></tr></thead><tbody>
<tr class="odd"><td>Continue a run</td><td>resume, <em>restart</em></td><td><a href="checkpoint.html#checkpoint">
<code>Checkpoint</code></a></td><td><a href="./recipes.html#checkpoints-and-resuming">Checkpoints</a></td></tr>
<tr><td>Train with several GPUs</td><td>DDP, multi-GPU</td><td><a href="distributed.html#distributed"><code>Distributed
</code></a></td><td><a href="distributed.html#distributed-data-parallel">there</a></td></tr>
</tbody></table><p>After.</p></section></main>'''

def test_rows_of_tasks_are_entries():
    by_kind = {entry['kind']: entry for entry in page_entries('reference.html', TASKS)[::-1]}
    assert by_kind['task']==dict(
        href='recipes.html#checkpoints-and-resuming', page='Reference', name='Continue a run', kind='task',
        also=['resume', 'restart'], text='Checkpoint: Checkpoints', code='')
    assert (by_kind['page']['text'], by_kind['section']['text'])==('All names. Before.', 'After.')

def test_what_a_cell_prints_is_left_out():
    page = '''<main><h1>Language</h1><section id="a"><h2>A sample</h2><pre class="sourceCode">print(sample)</pre>
    <div class="cell-output cell-output-stdout"><pre><code>learing rate</code></pre></div><p>It reads well.</p>'''
    _,section = page_entries('language.html', f'{page}</section></main>')
    assert (section['code'], section['text'])==('print(sample)', 'It reads well.')

# What comes first

@pytest.fixture(scope='session')
def rank(browser):
    """A function that ranks entries for each of some queries, or for one: those of the site, some more, or some others.
    It returns the first hundred, since to bring many over takes long."""
    page = browser.new_page()
    for name in ('search_index.js', 'search_ranks.js'): page.add_script_tag(path=DOCS/name)
    find = """([queries, more, others]) => {
        const entries = others ?? (more ? searchIndex.filter(entry => entry.kind != 'task').concat(more) : searchIndex)
        return queries.map(query => siteSearch.find(entries, query).slice(0, 100))
    }"""
    def found(query, others=None, more=None):
        queries = [query] if isinstance(query, str) else list(query)
        results = page.evaluate(find, [queries, more, others])
        return results[0] if isinstance(query, str) else results
    yield found
    page.close()

def entry(name, kind='section', **rest):
    return dict(href=name, name=name, kind=kind, page='', text='', code='', also=[]) | rest

def names(found): return [entry['name'] for entry in found]

@pytest.mark.parametrize('query, ordered', [
    ('order', [entry('The order'), entry('a', text='order'), entry('b', code='order'), entry('Recorder')]),
    ('order', [entry('a', text='in order'), entry('b', text='orderly'), entry('c', text='a recorder')]),
    ('check', [entry('check_int'), entry('Checkpoint', 'class')]), # a whole word before the beginning of one
    ('runner', [entry('Runner', 'class'), entry('The runner'), entry('Runner.fit', 'method', also=['fit'])]),
    ('fit', [entry('Runner.fit', 'method', also=['fit']), entry('The next fit')]),
    ('warmup', [entry('Warm-up'), entry('Warm-up in short'), entry('a', page='Warmup'), entry('b', text='warm-up')]),
    ('mean', [entry('a', text='a mean of means, and its mean'), entry('b', text='one mean')]),
    ('early stopping', [entry('Early stopping'), entry('Early stopping and more'), entry('a', text='stopping early')]),
    ('resume', [entry('Go on', 'task', also=['resume', 'again']), entry('Resume', 'class'), entry('resume_it')]),
    ('how do I use the GPU', [entry('GPUs'), entry('Use it', text='GPU')]),
])
def test_order_of_results(rank, query, ordered):
    for entries in (ordered, ordered[::-1]): assert names(rank(query, entries))==names(ordered)

@pytest.mark.parametrize('query, name', [
    ('early stopping', 'EarlyStopping'), ('EarlyStopping', 'EarlyStopping'), ('earlystopping', 'EarlyStopping'),
    ('learning rate finder', 'LRFinder'), ('lr finder', 'LRFinder'), ('lr find', 'lr_find'), ('lr_find', 'lr_find'),
    ('fit', 'fit_one_cycle'), ('GPU', 'GPUs'), ('initialising', 'Initialize'), ('accumulate', 'Accumulation'),
    ('multi-GPU', 'Several GPUs'), ('stops', 'Stopping'), ('fp16', 'Half precision'), ('Ärger', 'ärger'),
])
def test_a_name_is_found_by_its_words(rank, query, name):
    assert names(rank(query, [entry(name), entry('other', text='nothing of it')]))==[name]

def test_all_words_have_to_be_found(rank):
    entries = [entry('a', page='learning', text='rate'), entry('b', text='learning'),
               entry('c', also=['rate'], code='learn')]
    assert names(rank('learning rate', entries))==['c', 'a']
    assert rank('learning rate nowhere', entries)==rank('', entries)==rank('  /*', entries)==[]
    assert rank('constructor __proto__', entries)==[]

# {a query: what its first result leads to}
RIGHT = {
    'resume': r'(checkpoint|resume)\.html|recipes\.html#checkpoints-and-resuming',
    'DDP': r'(distributed|ranks)\.html#distributed-?data-?parallel|distributed\.html',
    'several GPUs': r'distributed\.html|recipes\.html#several-gpus-and-machines',
    'multi-GPU': r'distributed\.html|recipes\.html#several-gpus-and-machines',
    'warmup': r'anneal\.html#(warm-up-and-dead-units|combining-schedules|the-1cycle-policy)|(recipe|schedulers)\.html',
    'one cycle': r'anneal\.html#the-1cycle-policy|recipe\.html|recipes\.html',
    'checkpoint': r'checkpoint\.html|recipes\.html#checkpoints-and-resuming',
    'dropout': r'.*#(.*dropout.*|train-and-eval)|anneal\.html',
    'learning rate finder': r'lr_find\.html',
    'early stopping': r'monitor\.html#early-?stopping',
    'order': r'callbacks\.html#(the-order-of-callbacks|the-runner)',
    'gradient accumulation': r'steps\.html#gradient-?accumulation', 'gradient clipping': r'steps\.html#gradient-?clip',
    'mixed precision': r'gpu\.html#mixed-?precision', 'fp16': r'gpu\.html', 'amp': r'gpu\.html',
    'EMA': r'(schedulers|lr_find|recipes)\.html#.*(ema|average)', 'tensorboard': r'logs\.html#tensorboard',
    'csv': r'logs\.html#csv', 'confusion matrix': r'mistakes\.html#confusion', 'freeze': r'recipe\.html#.*freez',
    'seed': r'recipe\.html', 'reproducible': r'recipe\.html#reproducible', 'progress bar': r'progress\.html',
    'hooks': r'hooks\.html', 'validation': r'.*#validation|predict\.html', 'predict': r'predict\.html',
    'lr scheduler': r'(schedulers|recipes|anneal)\.html',
    'GPU': r'.*gpu|devices\.html|distributed\.html', 'coroutine': r'minibatch_training\.html#',
}

def test_right_section_comes_first(rank):
    first = {query: [entry['href'] for entry in found[:1]] for query,found in zip(RIGHT, rank(RIGHT))}
    assert {query: href for query,href in first.items() if not href or not re.match(RIGHT[query], href[0])}=={}

def test_a_task_comes_first(rank, index):
    "In a small table, and in that of the site if it has one."
    tasks = [entry for entry in page_entries('reference.html', TASKS) if entry['kind']=='task']
    for task,words in zip(tasks, [['resume', 'restart', 'continue a run'], ['DDP', 'multi-GPU', 'multi gpu']]):
        for query,found in zip(words, rank(words, more=tasks)): assert found[0]==task, query
    calls = {}
    for task in (entry for entry in index if entry['kind']=='task'):
        for name in (task['name'], *task['also']): calls.setdefault(name, []).append(task['href'])
    firsts = {query: (found[0]['kind'], found[0]['href']) for query,found in zip(calls, rank(calls))}
    wrong = {query: first for query,first in firsts.items() if first not in [('task', href) for href in calls[query]]}
    assert wrong=={}

def test_whole_words_first_and_each_place_once(rank):
    checkpoint = [(entry['kind'], entry['name']) for entry in rank('checkpoint')]
    assert {('class', 'Checkpoint'), ('page', 'Checkpoints')} < set(checkpoint[:4])
    assert all('check_int' not in name for _,name in checkpoint[:20])
    found = [entry['href'] for entry in rank('early stopping')]
    assert len(found)==len(set(found)) # the glossary leads to the section, which is found itself
    order = [entry['href'] for entry in rank('order')]
    assert order.index('callbacks.html#the-order-of-callbacks') < 3 and 'anneal.html#recorder' not in order[:20]

# The field

FIELD = '.site-search > input'

def look_for(tab, words):
    "Type into the field, and wait for results."
    tab.keyboard.press('/')
    tab.keyboard.insert_text(words)
    tab.wait_for_selector('[role=option]')
    return tab.locator('[role=option]')

def assert_on_top(tab, place):
    "Under the page's header, in the upper half of the window."
    header,box = tab.locator('#quarto-header').bounding_box(),place.bounding_box()
    assert header['y']+header['height'] <= box['y'] < 450, 'not in the upper half of the window'

def test_a_result_leads_to_the_heading_over_the_words(tab):
    "An entry, a term of the glossary, a question."
    tab.goto('/index.html')
    pages = {'DeviceCallback': 'devices', 'coroutine': 'minibatch_training', 'square images': 'why_sqrt5'}
    for words,page in pages.items():
        look_for(tab, words).and_(tab.locator(f'[href*="{page}.html#"]')).first.click()
        tab.wait_for_url(f'**/{page}.html#*', wait_until='load')
        target = tab.locator(f'[id="{tab.evaluate("decodeURIComponent(location.hash.slice(1))")}"]')
        assert words in target.evaluate('e => (e.closest("section, details") ?? e).textContent')
        heading = 'self::h1 or self::h2 or self::h3 or self::h4 or self::summary'
        assert_on_top(tab, target.locator(f'xpath=descendant-or-self::*[{heading}]').first)
    assert target.evaluate('e => e.matches("details.question[open]")')
    assert (tab.errors, tab.strangers)==([], [])

def test_search_loads_when_it_is_used_also_from_a_file(tab):
    "A page alone is light. A section of the page that one is on is found, too."
    tab.goto((DOCS/'jupyter.html').as_uri())
    assert tab.evaluate('[typeof siteSearch, typeof searchIndex]')==['undefined', 'undefined']
    anchor = tab.locator('main h2').last.evaluate('e => (e.id ? e : e.parentElement).id')
    name = tab.locator('main h2').last.inner_text()
    look_for(tab, f'{name} in jupyterlab').and_(tab.locator(f'[href$="/jupyter.html#{anchor}"]')).click()
    tab.wait_for_url(f'**/jupyter.html#{anchor}')
    assert not tab.locator('.site-search-panel').is_visible()
    look_for(tab, 'Why not fix the seed while exploring')
    tab.keyboard.press('Enter')
    tab.wait_for_url('**/why_sqrt5.html#question-*')
    assert tab.locator('details:target').evaluate('e => e.open')
    assert [error for error in tab.errors if 'search' in error]==[] # a browser refuses Quarto's modules from a file

STATE = '''() => {
    const field = document.querySelector('[role=combobox]'), all = [...document.querySelectorAll('[role=option]')]
    return {active: all.findIndex(e => e.id == field.getAttribute('aria-activedescendant')),
            selected: all.findIndex(e => e.getAttribute('aria-selected') == 'true'),
            expanded: field.getAttribute('aria-expanded') == 'true' && field.checkVisibility(),
            open: document.querySelector('.site-search-panel').checkVisibility(),
            focused: document.activeElement == field, value: field.value}
}'''

def test_search_by_keyboard(tab):
    tab.goto('/glossary.html')
    options = look_for(tab, 'learning rate finder')
    count = options.count()
    def state(): return tab.evaluate(STATE)
    def after(key):
        tab.keyboard.press(key)
        return state()
    for key,chosen in [('ArrowDown', 0), ('ArrowDown', 1), ('ArrowUp', 0), ('ArrowUp', count-1), ('ArrowDown', 0)]:
        now = after(key)
        assert (now['active'], now['selected'], now['focused'])==(chosen, chosen, True), key
    assert after('s')['value']=='learning rate finders' # a letter of a word, not the shortcut
    assert after('Backspace')['expanded']
    closed = after('Escape')
    assert (closed['open'], closed['expanded'], closed['value'])==(False, False, 'learning rate finder')
    assert after('ArrowDown')['open'] # open again
    after('Escape')
    assert after('Escape')['value']==''
    tab.keyboard.insert_text('qqqq')
    tab.wait_for_function("document.querySelector('[role=status]').textContent.startsWith('Nothing')")
    assert after('Enter')['open'] and tab.url.endswith('/glossary.html')
    after('Escape')
    after('Escape')
    tab.keyboard.insert_text('checkpoint')
    href = options.nth(1).get_attribute('href')
    after('ArrowDown')
    after('ArrowDown')
    tab.keyboard.press('Enter')
    tab.wait_for_url(href)

    tab.keyboard.press('s')
    assert state()['focused']
    tab.keyboard.insert_text('order')
    tab.wait_for_selector('[role=option]')
    now = after('Tab')
    assert (now['open'], now['focused'])==(False, False)
    tab.keyboard.press('/')
    tab.wait_for_selector('[role=option]') # the words are still there
    tab.locator('main').dispatch_event('pointerdown') # a finger, which on some phones doesn't take the focus away
    assert state()['focused'] and not state()['open']

def test_results_fit_and_can_be_read_by_all(tab, axe):
    "On a phone and on a large screen, light and dark."
    tab.goto('/jupyter.html')
    tab.add_script_tag(url=axe)
    for width,dark in (390, False), (1440, False), (1440, True), (390, True):
        if dark and not is_dark(tab): toggle(tab)
        assert is_dark(tab)==dark and sideways(tab, width)==0
        if width==390: assert 100 < tab.locator(FIELD).bounding_box()['width'] < 250
        options = look_for(tab, 'early stopping')
        tab.keyboard.press('ArrowDown')
        assert options.first.locator('mark').first.inner_text().lower() in ('earlystopping', 'early', 'stop')
        box = tab.locator('.site-search-panel').bounding_box()
        assert 30 < box['y'] < 70 and box['y']+box['height'] <= 900
        assert tab.locator(FIELD).evaluate('e => e.scrollWidth <= e.clientWidth') # the words, whole
        assert 0 <= box['x'] and box['x']+box['width'] <= width and box['width'] >= min(width-30, 500)
        assert tab.evaluate('document.documentElement.scrollWidth') <= width
        assert violations(tab, "'.site-search'", **({'runOnly': ['color-contrast']} if dark else {}))==[]
        for _ in range(2): tab.keyboard.press('Escape')
        tab.locator(FIELD).blur()
    assert (tab.errors, tab.strangers)==([], [])

def test_search_is_in_reach_wherever_one_has_scrolled_to(tab):
    tab.goto('/glossary.html')
    for _ in range(2): tab.mouse.wheel(0, 1000) # Quarto's bar goes
    tab.wait_for_function('scrollY == 2000')
    tab.wait_for_function("!document.querySelector('#quarto-header').getAnimations().length")
    before = tab.evaluate('scrollY')
    tab.keyboard.press('/')
    tab.keyboard.type('runner') # key by key, as a person does
    tab.wait_for_selector('[role=option]')
    assert tab.evaluate('scrollY')==before
    tab.wait_for_function("document.querySelector('.site-search > input').getBoundingClientRect().top >= 0")

@pytest.mark.parametrize('typed, meant, first', [
    ('checkpiont', 'checkpoint', 'checkpoint.html'), ('learing rate', 'learning rate', None),
    ('mixed precison', 'mixed precision', 'gpu.html#mixed-precision')])
def test_what_is_misspelled_is_found_and_said(tab, typed, meant, first):
    tab.goto('/jupyter.html')
    options = look_for(tab, typed)
    assert f'“{meant}”' in tab.get_by_role('status').inner_text()
    if first: assert first in options.first.get_attribute('href')

def test_without_javascript_there_is_no_dead_field(browser, address):
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f'{address}/index.html')
        assert page.locator('#quarto-header a').first.is_visible()
        assert page.locator('#quarto-header input, [role=search]').count()==0

def test_a_missing_index_is_said(tab):
    tab.route('**/search_index.js', lambda route: route.abort())
    tab.goto('/jupyter.html')
    tab.keyboard.press('/')
    tab.keyboard.insert_text('order')
    tab.wait_for_function("document.querySelector('[role=status]').textContent == 'The index cannot be loaded.'")
    tab.unroute('**/search_index.js')
    tab.keyboard.insert_text('s')
    tab.wait_for_selector('[role=option]')
