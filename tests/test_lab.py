"""JupyterLab in headless Chromium, as people who edit the notebooks see it: a lesson is run and saved, and outputs of
cells are looked at.

One JupyterLab, started by `make lab`, on a copy of the notebooks with a git repository and a home directory of its
own. Neither the checkout nor the real home changes, except matplotlib's list of fonts. Needs playwright and
jupyterlab, which .venv has, and a Chromium.

What is slow happens once: the server starts with only the extensions that are needed, and one tab opens both
notebooks, with one kernel, which imports PyTorch once."""
import json, os, re, shutil, signal, socket, subprocess, sys, time
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not find_spec('jupyterlab'): # to import it would take seconds
    pytest.skip('jupyterlab is not installed: JupyterLab was not tested', allow_module_level=True)

LESSON = next((ROOT/'nbs').glob('*_journey.ipynb')).name # a quick one, with a plot and a drawing
PATIENCE = 180 # seconds that anything may take: the machine may be busy

SCRATCH = dict(setup='''
%reload_ext lesson9
import time, torch, torch.nn.functional as F
from lesson9.all import *
class Slow(Callback):
    def after_loss(self): time.sleep(0.1)
class Every:
    "Do something now and then."
    def __init__(self,
        n=10,     # how often
        log=None, # gets a line
    ): self.n,self.log = n,log
class Interrupt(Callback):
    order = 100
    def after_batch(self):
        if self.n_iter==12: raise KeyboardInterrupt()
ds = Dataset(torch.randn(64, 4), torch.arange(64)%3)
model = torch.nn.Linear(4, 3)
data = DataBunch(*get_dls(ds, ds, 8), 3)
learn = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), F.cross_entropy, data)
run = Runner([ProgressCallback(accuracy, plot=True), Slow()])'''.strip(),
    fit='run.fit(3, learn)',
    fit_without_plot='Runner([ProgressCallback(accuracy), Slow()]).fit(2, learn)',
    interrupted='''
try: Runner([ProgressCallback(), Slow(), Interrupt()]).fit(2, learn)
except KeyboardInterrupt: pass'''.strip(),
    learn='learn', data='data', run='run', schedule='sched_cos(0.1, 0.5)',
    one_cycle='cos_1cycle_anneal', ParamScheduler='ParamScheduler', Runner_fit='Runner.fit', Every='Every',
    saved='sched_lin(0, 1)')

CELLS = list(SCRATCH)

# The notebook in front: its path, whether its kernel is idle and it is saved, how often each code cell was run, and
# whether one failed.
STATE = '''() => {
    const panel = window.jupyterapp?.shell.currentWidget, kernel = panel?.sessionContext?.session?.kernel
    if (!panel?.content?.model) return null
    const cells = [...panel.content.model.cells].filter(c => c.type=='code')
    const failed = c => [...Array(c.outputs.length).keys()].some(i => c.outputs.get(i).type=='error')
    return {name: panel.context.path, ready: panel.sessionContext.isReady && kernel?.status=='idle',
            saved: !panel.context.model.dirty, counts: cells.map(c => c.executionCount), failed: cells.some(failed)}
}'''

# Its code cells as they are saved, `execution_count` and `outputs` included
CELLS_NOW = """[...jupyterapp.shell.currentWidget.content.model.cells]
    .map(c => c.toJSON()).filter(c => c.cell_type=='code')"""

def scratch_notebook():
    "One cell a source; the last has an output from another day."
    drawing = dict(output_type='display_data', metadata={}, data={'text/html': '<svg width="200" height="50"></svg>'})
    cells = [dict(cell_type='code', id=name, metadata={}, execution_count=None, outputs=[], source=source)
             for name,source in SCRATCH.items()]
    cells[-1]['outputs'] = [drawing]
    kernel = dict(display_name='python3', language='python', name='python3')
    return dict(cells=cells, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)

def written(nb): return json.dumps(nb, indent=1, ensure_ascii=False)+'\n'

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "The notebooks and the library, committed; the scratch notebook; the environment to work there."
    top = tmp_path_factory.mktemp('lab')
    path,home = top/'lesson9',top/'home'
    for name in 'nbs', 'lesson9':
        ignored = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
        shutil.copytree(ROOT/name, path/name, symlinks=True, ignore=ignored)
    for name in 'Makefile', 'settings.ini', '.gitignore', '.gitattributes': shutil.copy(ROOT/name, path)
    (path/'nbs'/'scratch.ipynb').write_text(written(scratch_notebook()))

    # jsonschema imports this to check web addresses, and to build its grammar takes seconds. Without it, it leaves
    # those checks out.
    stubs = top/'stubs'
    stubs.mkdir()
    (stubs/'rfc3987_syntax.py').write_text("raise ImportError('not needed here')")

    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    settings = home/'.jupyter/lab/user-settings/@jupyterlab/apputils-extension'
    settings.mkdir(parents=True)
    (settings/'notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
    unused = dict.fromkeys(('jupyter_lsp', 'jupyter_server_terminals', 'notebook_shim'), False)
    server = dict(ip='127.0.0.1', port=port, port_retries=0, open_browser=False, jpserver_extensions=unused)
    lab = dict(check_for_updates_class='jupyterlab.NeverCheckForUpdate', # no questions to other hosts
               extension_manager='readonly', expose_app_in_browser=True)
    configs = dict(server=dict(ServerApp=server, IdentityProvider=dict(token='')), lab=dict(LabApp=lab))
    for name,config in configs.items():
        (home/f'.jupyter/jupyter_{name}_config.json').write_text(json.dumps(config))

    env = {k: v for k,v in os.environ.items() if not k.startswith(('JUPYTER', 'GIT_', 'MAKE', 'MFLAGS'))}
    env |= dict(HOME=str(home), PYTHONPATH=f'{path}:{stubs}', PATH=f'{Path(sys.executable).parent}:{env["PATH"]}',
                IN_TEST='1', # a lesson repeats less
                XDG_CACHE_HOME=env.get('XDG_CACHE_HOME', f'{Path.home()}/.cache')) # matplotlib's list of fonts is there
    def sh(*args):
        return subprocess.run(args, cwd=path, env=env, check=True, capture_output=True, text=True).stdout
    sh('git', 'init', '-q')
    sh('git', 'add', '.')
    sh('git', '-c', 'user.name=test', '-c', 'user.email=test@localhost', 'commit', '-qm', 'As it was')
    return SimpleNamespace(path=path, env=env, sh=sh, log=top/'log.txt', url=f'http://127.0.0.1:{port}')

@pytest.fixture(scope='module')
def address(copy):
    "Where JupyterLab answers. `make lab` starts it, with the environment that runs this file."
    venv = Path(sys.prefix)
    command = ['make', '--no-print-directory', f'--old-file={venv}/.ready', f'VENV={venv}', 'lab']
    with open(copy.log, 'w') as log:
        options = dict(cwd=copy.path, env=copy.env, stdout=log, stderr=log, start_new_session=True)
        server = subprocess.Popen(command, **options)
    try:
        end = time.monotonic()+PATIENCE
        while not answers(f'{copy.url}/api/status'):
            is_alive = server.poll() is None and time.monotonic()<end
            assert is_alive, f'JupyterLab does not start:\n{copy.log.read_text()}'
            time.sleep(0.1)
        yield copy.url
    finally: stop(server)

def stop(server):
    "End make, and JupyterLab with it, which ends its kernels."
    for sign,seconds in (signal.SIGTERM, 60), (signal.SIGKILL, 20):
        end = time.monotonic()+seconds
        try:
            os.killpg(server.pid, sign)
            while time.monotonic()<end:
                server.poll()
                os.killpg(server.pid, 0) # is a process left?
                time.sleep(0.1)
        except ProcessLookupError: return

def answers(url):
    try: return urlopen(url, timeout=5).status==200
    except OSError: return False

@pytest.fixture(scope='module')
def tab(browser, address):
    "JupyterLab without a notebook; `tab.strangers` has requests to other hosts."
    tab = browser.new_page(viewport=dict(width=1280, height=900))
    tab.set_default_timeout(PATIENCE*1000)
    tab.strangers = []
    own = address, address.replace('http', 'ws', 1), 'data:', 'blob:'
    tab.on('request', lambda r: r.url.startswith(own) or tab.strangers.append(r.url))
    tab.goto(f'{address}/lab?reset')
    tab.wait_for_function('window.jupyterapp?.restored.then(() => true)')
    yield tab
    tab.close()

def open_notebook(tab, name):
    "Open a notebook, and wait for its kernel."
    tab.evaluate("name => { jupyterapp.commands.execute('docmanager:open', {path: name}) }", name)
    wait_for(tab, f'now.name=={name!r} && now.ready')

def wait_for(tab, condition):
    "Wait until the JavaScript `condition` on the state `now` is true; returns the notebook's code cells."
    tab.wait_for_function(f'() => {{ const now = ({STATE})(); return now && ({condition}) }}', polling=100)
    return tab.evaluate(CELLS_NOW)

def run_cell(tab, name):
    "Run a cell of the scratch notebook with Shift+Enter; returns the outputs that it then has."
    index = CELLS.index(name)
    tab.locator('.jp-CodeCell:visible').nth(index).locator('.cm-content').click()
    tab.keyboard.press('Shift+Enter')
    return wait_for(tab, f'now.ready && now.counts[{index}]')[index]['outputs']

def complaints(outputs):
    bad = [o for o in outputs if o['output_type']=='error' or o.get('name')=='stderr']
    return [o.get('text') or o['traceback'][-1] for o in bad]

# A lesson is run and saved

def committed(copy): return copy.sh('git', 'show', f'HEAD:nbs/{LESSON}')

@pytest.fixture(scope='module')
def lesson(tab, copy):
    "The lesson, open, as it was committed but for its outputs: they have to come back."
    nb = json.loads(committed(copy))
    for cell in nb['cells']:
        if cell['cell_type']=='code': cell['outputs'] = []
    (copy.path/'nbs'/LESSON).write_text(written(nb))
    open_notebook(tab, LESSON)
    return tab

@pytest.fixture(scope='module')
def after_run(lesson):
    "What the lesson holds after Kernel > Restart Kernel and Run All Cells."
    kernel = 'jupyterapp.shell.currentWidget.sessionContext.session.kernel'
    lesson.evaluate(f"async () => {{ await {kernel}.requestExecute({{code: '1'}}).done }}")
    # a kernel that was not restarted would count on from here
    lesson.locator('.lm-MenuBar-itemLabel', has_text='Kernel').click()
    lesson.locator('.lm-Menu-itemLabel', has_text='Restart Kernel and Run All Cells').click()
    lesson.locator('.jp-Dialog .jp-mod-accept', has_text='Restart').click()
    return wait_for(lesson, 'now.ready && (now.counts.every(Boolean) || now.failed)')

def is_compared(cell):
    "Whether what a code cell shows is committed. `#| notest` is for readers only."
    return cell['cell_type']=='code' and not re.search(r'^#\s*\|\s*notest\b', ''.join(cell['source']), re.MULTILINE)

def test_a_lesson_runs_from_top_to_bottom(after_run):
    assert [c for cell in after_run for c in complaints(cell['outputs'])]==[]
    counts = [cell['execution_count'] for cell in after_run]
    assert counts==[*range(1, 1+len(after_run))], 'each cell once, by a new kernel'

def test_its_outputs_are_on_the_page(lesson, after_run, copy):
    "As many as were committed, of the same kinds, and all plots drawn."
    def kinds(cells):
        def kind(output): return output['output_type'], sorted(output.get('data', []))
        return {cell['id']: [kind(output) for output in cell['outputs']] for cell in cells if is_compared(cell)}
    before = json.loads(committed(copy))['cells']
    assert kinds(after_run)==kinds(before)
    plots = [key for key,outputs in kinds(before).items() if any('image/png' in types for _,types in outputs)]
    assert plots, 'a lesson without plots'
    drawn = """id => {
        const cell = jupyterapp.shell.currentWidget.content.widgets.find(cell => cell.model.id==id)
        const images = [...cell.node.querySelectorAll('.jp-OutputArea-output img')]
        return images.some(img => img.complete && img.naturalWidth>300)
    }"""
    for key in plots: lesson.wait_for_function(drawn, arg=key)

NUMBER = re.compile(r'[-+]?\b(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|nan|inf)\b')
def without_numbers(outputs):
    "The outputs with each number as #, each picture as its type, and the blanks that align numbers as one."
    def shown(data): return {kind: kind if kind.startswith('image/') else value for kind,value in data.items()}
    outputs = [o | dict(data=shown(o['data'])) if 'data' in o else o for o in outputs]
    return re.sub(' +', ' ', NUMBER.sub('#', json.dumps(outputs)))

def test_saving_brings_back_what_was_committed(lesson, after_run, copy):
    """But for random numbers and pictures. The hooks of `make lab` clean what is saved: prompts that the page shows
    are not in the file."""
    lesson.locator('.jp-Notebook:visible').first.focus()
    def is_saving(response): return response.request.method=='PUT' and LESSON in response.url
    with lesson.expect_response(is_saving) as saving: lesson.keyboard.press('Control+s')
    assert saving.value.ok
    assert all(cell['execution_count'] for cell in wait_for(lesson, 'now.saved'))
    assert copy.sh('git', 'status', '--porcelain').split() in ([], ['M', f'nbs/{LESSON}'])

    before,after = committed(copy),(copy.path/'nbs'/LESSON).read_text()
    old,new = json.loads(before),json.loads(after)
    assert written(new)==after, 'saved in another layout'
    assert [c['id'] for c in new['cells']]==[c['id'] for c in old['cells']]
    assert any(c['outputs'] for c in new['cells'] if is_compared(c)), 'the outputs were not saved'
    for a,b in zip(old['cells'], new['cells']):
        if a['cell_type']!='code': continue
        if is_compared(a):
            same = without_numbers(a['outputs'])==without_numbers(b['outputs'])
            assert same, f"cell {a['id']} changed in more than numbers and pictures"
        b['outputs'] = a['outputs']
    assert written(new)==before, 'with the old outputs put back, something still differs'

# What cells show

@pytest.fixture(scope='module')
def scratch(tab):
    "The scratch notebook, its first cell run. If a lesson has a kernel, it uses that one."
    tab.evaluate("""async () => {
        const {serviceManager, shell} = jupyterapp
        const kernel = shell.currentWidget?.sessionContext?.session?.kernel
        const options = {path: 'scratch.ipynb', type: 'notebook', name: 'scratch.ipynb', kernel: {id: kernel?.id}}
        if (kernel) await serviceManager.sessions.startNew(options)
    }""")
    open_notebook(tab, 'scratch.ipynb')
    assert run_cell(tab, 'setup')==[]
    return tab

def cell_of(tab, name): return tab.locator('.jp-CodeCell:visible').nth(CELLS.index(name))

TIPS = dict( # how a signature begins, parts with the comments beside parameters, and how the docstring begins
    one_cycle = ('def cos_1cycle_anneal(', 'start, # value at the beginning', 'end, # value at the end',
                 'Go up from start to high'),
    ParamScheduler = ('class ParamScheduler(', "pname, # the hyperparameter's name", 'sched_funcs, # a schedule',
                      'Set a hyperparameter'),
    Runner_fit = ('def fit(', 'epochs:int', 'learn:Learner', 'Train learn.model for epochs epochs.'),
    Every = ('class Every(', 'n=10, # how often', 'log=None, # gets a line', 'Do something now and then.')) # of a cell

@pytest.mark.parametrize('name', TIPS)
def test_shift_tab_shows_parameters_with_their_comments_and_the_docstring(scratch, name):
    cell_of(scratch, name).locator('.cm-content').click()
    scratch.keyboard.press('End')
    scratch.keyboard.press('Shift+Tab')
    tip = scratch.locator('.jp-Tooltip', has_text=re.compile(r'\w')) # at first it is empty
    tip.wait_for()
    text = ' '.join(tip.inner_text().split())
    boxes = '[e, ...e.querySelectorAll("div, pre")]'
    is_cut = tip.evaluate(f'e => {boxes}.some(box => box.scrollWidth>box.clientWidth+1)')
    scratch.keyboard.press('Escape')
    tip.wait_for(state='detached')
    assert text.startswith(TIPS[name][0]), text # as rendered, without marks of Markdown
    for part in TIPS[name]: assert part in text, text
    assert not is_cut, 'wider than its box'

def test_a_saved_drawing_shows_before_anything_was_run(scratch):
    cell = cell_of(scratch, 'saved')
    cell.locator('.jp-RenderedHTML').wait_for(state='attached')
    assert cell.locator('.jp-RenderedHTML svg').count()==1

@pytest.mark.parametrize('name, shown', [
    ('learn', 'table'), ('data', 'table'), ('run', 'table'), ('schedule', 'svg, img')])
def test_an_object_shows_what_it_is(scratch, name, shown):
    "As a table or a picture, not as a line of text."
    output, = run_cell(scratch, name)
    assert 'text/html' in output['data'], output
    seen = cell_of(scratch, name).locator('.jp-OutputArea-output').locator(shown)
    seen.first.wait_for()
    assert seen.first.bounding_box()['width']>100

WATCH = '''cell => { // keeps in `seen` what the outputs of the cell look like, one state after another
    const seen = window.seen = [], plots = []
    const look = () => {
        const all = q => [...cell.querySelectorAll(`.jp-OutputArea-output ${q}`)]
        for (const img of all('img')) if (!plots.includes(img.src)) plots.push(img.src)
        const now = {outputs: cell.querySelectorAll('.jp-OutputArea-output').length, rows: all('tbody tr').length,
                     bars: all('pre').map(e => e.textContent), images: all('img').length, plots: plots.length}
        if (JSON.stringify(now) != JSON.stringify(seen.at(-1))) seen.push(now)
    }
    new MutationObserver(look).observe(cell, {childList: true, subtree: true, characterData: true, attributes: true})
}'''

def test_bar_plot_and_table_grow_in_one_output(scratch):
    "And only the plot and the table are kept."
    cell_of(scratch, 'fit').evaluate(WATCH)
    output, = run_cell(scratch, 'fit')
    seen = scratch.evaluate('seen')
    bars = [bar for now in seen for bar in now['bars']]
    for epoch in 1,2,3: assert any(f'epoch {epoch} of 3' in bar and 'loss ' in bar for bar in bars), bars
    assert any('validating' in bar for bar in bars), bars
    assert max(now['outputs'] for now in seen)==1 and max(len(now['bars']) for now in seen)==1, seen
    rows = [now['rows'] for now in seen if now['outputs']]
    assert sorted(set(rows))==[0,1,2,3] and rows==sorted(rows), rows
    assert seen[-1]['plots']>=3, 'drawn as training begins, again after two seconds, and at the end'
    assert seen[-1]['bars']==[] and seen[-1]['images']==1 and seen[-1]['rows']==3, seen[-1]
    html = output['data']['text/html']
    # the head, and three epochs
    assert html.count('<img')==1 and html.count('<tr>')==4 and '<pre>' not in html, html[:500]

def test_a_notebook_keeps_only_the_table(scratch):
    output, = run_cell(scratch, 'fit_without_plot')
    html = output['data']['text/html']
    assert output['output_type']=='display_data' and html.count('<tr>')==3 and html.endswith('</table>'), html
    assert 'epoch 2' not in html, html

def test_an_interrupted_fit_leaves_no_bar(scratch):
    output, = run_cell(scratch, 'interrupted')
    html = output['data']['text/html']
    assert html.count('<tr>')==2 and '<pre>' not in html, html # the head, and one epoch

def test_the_server_did_not_complain(lesson, scratch, copy):
    log = copy.log.read_text()
    assert 'Saving file' in log, log
    assert not [line for line in log.splitlines() if line.startswith(('[E', '[C', 'Traceback'))], log

def test_nothing_was_asked_of_another_host(tab, lesson, scratch): assert tab.strangers==[]
