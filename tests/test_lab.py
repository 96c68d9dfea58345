"""JupyterLab in headless Chromium, as whoever edits the notebooks meets it: a lesson is run and saved, and what cells show is looked at.

One JupyterLab, started by `make lab`, on a copy of the notebooks with a git repository and a home directory of its own:
neither the checkout nor the real home is touched, but for matplotlib's list of fonts. Needs playwright and jupyterlab, which .venv has, and a Chromium."""
import json, os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path
from types import SimpleNamespace
from urllib.request import urlopen

import nbformat, pytest

ROOT = Path(__file__).resolve().parent.parent
pytest.importorskip('jupyterlab', reason='jupyterlab is not installed: JupyterLab was not tested')

LESSON = '02b_initializing.ipynb' # the quickest with random numbers, and pictures of them
PATIENCE = 180                    # seconds that anything but the lesson may take: the machine may be busy

SCRATCH = dict(setup='''
import time, torch, torch.nn.functional as F
from lesson9.all import *
class Slow(Callback):
    def after_loss(self): time.sleep(0.1)
ds = Dataset(torch.randn(64, 4), torch.arange(64)%3)
model = torch.nn.Linear(4, 3)
data = DataBunch(*get_dls(ds, ds, 8), 3)
learn = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), F.cross_entropy, data)
run = Runner([ProgressCallback(accuracy, plot=True), Slow()])'''.strip(),
    fit='run.fit(3, learn)', learn='learn', data='data', run='run', schedule='sched_cos(0.1, 0.5)',
    sched_cos='sched_cos', ParamScheduler='ParamScheduler', Runner_fit='Runner.fit', saved='sched_lin(0, 1)')

CELLS = list(SCRATCH)

# What the notebook in front holds now. A cell is as it is saved, its `execution_count` and `outputs` included.
STATE = '''() => {
    const panel = window.jupyterapp?.shell.currentWidget, kernel = panel?.sessionContext?.session?.kernel;
    if (!panel?.content?.model) return null;
    const cells = [...panel.content.model.cells].map(c => c.toJSON()).filter(c => c.cell_type=='code');
    return {ready: panel.sessionContext.isReady && kernel?.status=='idle', saved: !panel.context.model.dirty, cells: cells};
}'''

@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "The notebooks and the library, committed, with the scratch notebook; and the environment in which to work there."
    top = tmp_path_factory.mktemp('lab')
    path,home = top/'lesson9',top/'home'
    for name in 'nbs', 'lesson9':
        shutil.copytree(ROOT/name, path/name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in 'Makefile', 'settings.ini', '.gitignore', '.gitattributes': shutil.copy(ROOT/name, path)
    scratch = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in SCRATCH.values()])
    scratch.cells[-1].outputs = [nbformat.v4.new_output('display_data', {'text/html': '<svg width="200" height="50"></svg>'})] # from another day
    scratch.metadata.kernelspec = dict(display_name='python3', language='python', name='python3')
    nbformat.write(scratch, path/'nbs'/'scratch.ipynb')

    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    settings = home/'.jupyter/lab/user-settings/@jupyterlab/apputils-extension'
    settings.mkdir(parents=True)
    (settings/'notification.jupyterlab-settings').write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (home/'.jupyter/jupyter_server_config.json').write_text(json.dumps(dict(
        ServerApp=dict(ip='127.0.0.1', port=port, port_retries=0, open_browser=False), IdentityProvider=dict(token=''))))
    (home/'.jupyter/jupyter_lab_config.json').write_text(json.dumps(dict( # without questions to other hosts
        LabApp=dict(check_for_updates_class='jupyterlab.NeverCheckForUpdate', extension_manager='readonly', expose_app_in_browser=True))))

    env = {k: v for k,v in os.environ.items() if not k.startswith(('JUPYTER', 'GIT_', 'MAKE', 'MFLAGS'))}
    env |= dict(HOME=str(home), PYTHONPATH=str(path), OMP_NUM_THREADS='1', PATH=f'{Path(sys.executable).parent}:{env["PATH"]}',
                XDG_CACHE_HOME=env.get('XDG_CACHE_HOME', str(Path.home()/'.cache'))) # where matplotlib has its list of fonts
    def sh(*args): return subprocess.run(args, cwd=path, env=env, check=True, capture_output=True, text=True).stdout
    sh('git', 'init', '-q')
    sh('git', 'add', '.')
    sh('git', '-c', 'user.name=test', '-c', 'user.email=test@localhost', 'commit', '-qm', 'As it was')
    return SimpleNamespace(path=path, env=env, sh=sh, log=top/'log.txt', url=f'http://127.0.0.1:{port}')

@pytest.fixture(scope='module')
def address(copy):
    "Where JupyterLab answers. `make lab` starts it, with the environment that runs this file."
    venv = Path(sys.prefix)
    command = ['make', '--no-print-directory', f'--old-file={venv}/.ready', f'VENV={venv}', 'lab']
    with open(copy.log, 'w') as log: server = subprocess.Popen(command, cwd=copy.path, env=copy.env, stdout=log, stderr=log, start_new_session=True)
    try:
        end = time.monotonic()+PATIENCE
        while not answers(f'{copy.url}/api/status'):
            assert server.poll() is None and time.monotonic()<end, f'JupyterLab does not start:\n{copy.log.read_text()}'
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
                os.killpg(server.pid, 0) # is anybody left?
                time.sleep(0.1)
        except ProcessLookupError: return

def answers(url):
    try: return urlopen(url, timeout=5).status==200
    except OSError: return False

def opened(browser, address, name):
    "A tab with notebook `name`, its kernel ready; `tab.strangers` has requests to other hosts."
    tab = browser.new_page(viewport=dict(width=1280, height=900))
    tab.set_default_timeout(PATIENCE*1000)
    tab.strangers = []
    tab.on('request', lambda r: r.url.startswith((address, address.replace('http', 'ws', 1), 'data:', 'blob:')) or tab.strangers.append(r.url))
    tab.goto(f'{address}/lab/tree/{name}?reset')
    wait_for(tab, 'now.ready')
    return tab

def wait_for(tab, condition, seconds=PATIENCE):
    "Wait until the JavaScript `condition` on the state `now` is true; returns the notebook's code cells."
    tab.wait_for_function(f'() => {{ const now = ({STATE})(); return now && ({condition}) }}', timeout=seconds*1000)
    return tab.evaluate(STATE)['cells']

def run_cell(tab, index):
    "Run code cell `index` with Shift+Enter; returns the outputs that it then has."
    tab.locator('.jp-CodeCell').nth(index).locator('.cm-content').click()
    tab.keyboard.press('Shift+Enter')
    return wait_for(tab, f'now.ready && now.cells[{index}].execution_count')[index]['outputs']

def complaints(outputs): return [o.get('text') or o['traceback'][-1] for o in outputs if o['output_type']=='error' or o.get('name')=='stderr']

# A lesson is run and saved

@pytest.fixture(scope='module')
def lesson(browser, address):
    tab = opened(browser, address, LESSON)
    yield tab
    tab.close()

@pytest.fixture(scope='module')
def after_run(lesson):
    "What the lesson holds after Kernel > Restart Kernel and Run All Cells."
    run_cell(lesson, 0) # so that a kernel that was not restarted would count on from here
    lesson.locator('.lm-MenuBar-itemLabel', has_text='Kernel').click()
    lesson.locator('.lm-Menu-itemLabel', has_text='Restart Kernel and Run All Cells').click()
    lesson.locator('.jp-Dialog .jp-mod-accept', has_text='Restart').click()
    return wait_for(lesson, "now.ready && (now.cells.every(c => c.execution_count) || now.cells.some(c => c.outputs.some(o => o.output_type=='error')))", 4*PATIENCE)

def written(nb): return json.dumps(nb, indent=1, ensure_ascii=False)+'\n'
def committed(copy): return copy.sh('git', 'show', f'HEAD:nbs/{LESSON}')
def is_compared(cell):
    "Whether what a code cell shows is what was committed. A cell with `#| notest` is for readers only: its output is not committed."
    return cell['cell_type']=='code' and not re.search(r'^#\s*\|\s*notest\b', ''.join(cell['source']), re.MULTILINE)

def test_a_lesson_runs_from_top_to_bottom(after_run):
    assert [c for cell in after_run for c in complaints(cell['outputs'])]==[]
    assert [cell['execution_count'] for cell in after_run]==[*range(1, 1+len(after_run))], 'each cell once, by a new kernel'

def test_its_outputs_are_on_the_page(lesson, after_run, copy):
    "As many as were committed, of the same kinds, and all plots drawn."
    def kinds(cells): return {cell['id']: [(o['output_type'], sorted(o.get('data', []))) for o in cell['outputs']] for cell in cells if is_compared(cell)}
    before = json.loads(committed(copy))['cells']
    assert kinds(after_run)==kinds(before)
    plots = [key for key,outputs in kinds(before).items() if any('image/png' in types for _,types in outputs)]
    assert plots, 'a lesson without plots'
    drawn = """id => [...jupyterapp.shell.currentWidget.content.widgets.find(cell => cell.model.id==id).node.querySelectorAll('.jp-OutputArea-output img')]
        .some(img => img.complete && img.naturalWidth>300)"""
    for key in plots: lesson.wait_for_function(drawn, arg=key)

NUMBER = re.compile(r'[-+]?\b(?:\d+(?:\.\d*)?(?:e[-+]?\d+)?|nan|inf)\b')
def without_numbers(outputs):
    "The outputs with each number as #, each picture as its type, and the blanks that align numbers as one."
    outputs = [o | dict(data={k: k if k.startswith('image/') else v for k,v in o['data'].items()}) if 'data' in o else o for o in outputs]
    return re.sub(' +', ' ', NUMBER.sub('#', json.dumps(outputs)))

def test_saving_changes_nothing_but_random_numbers_and_pictures(lesson, after_run, copy):
    "The hooks of `make lab` clean what is saved: the prompts that the page shows are not in the file."
    lesson.locator('.jp-Notebook').first.focus()
    with lesson.expect_response(lambda r: r.request.method=='PUT' and LESSON in r.url) as saving: lesson.keyboard.press('Control+s')
    assert saving.value.ok
    assert all(cell['execution_count'] for cell in wait_for(lesson, 'now.saved'))
    assert copy.sh('git', 'status', '--porcelain').split()==['M', f'nbs/{LESSON}']

    before,after = committed(copy),(copy.path/'nbs'/LESSON).read_text()
    old,new = json.loads(before),json.loads(after)
    assert written(new)==after, 'saved in another layout'
    assert [c['id'] for c in new['cells']]==[c['id'] for c in old['cells']]
    changed = [(a,b) for a,b in zip(old['cells'], new['cells']) if a.get('outputs')!=b.get('outputs')]
    assert any(is_compared(a) for a,_ in changed), 'the lesson draws random numbers: its outputs were not saved'
    for a,b in changed:
        if is_compared(a): assert without_numbers(a['outputs'])==without_numbers(b['outputs']), f"cell {a['id']} changed in more than numbers and pictures"
        b['outputs'] = a['outputs']
    assert written(new)==before, 'with the old outputs put back, something still differs'

# What cells show

@pytest.fixture(scope='module')
def scratch(browser, address):
    "The scratch notebook, its first cell run."
    tab = opened(browser, address, 'scratch.ipynb')
    assert run_cell(tab, 0)==[]
    yield tab
    tab.close()

TIPS = dict( # parameters with the comments beside them, and how the docstring begins
    sched_cos      = ('start, # value at position 0', 'end, # value at position 1', 'Half a cosine wave from start to end'),
    ParamScheduler = ("pname, # the hyperparameter's name", 'sched_funcs, # a schedule', 'Sets a hyperparameter at every training batch'),
    Runner_fit     = ('epochs:int, # how many passes', 'learn, # a `Learner`', 'Train learn.model.'))

@pytest.mark.parametrize('name', TIPS)
def test_shift_tab_shows_parameters_with_their_comments_and_the_docstring(scratch, name):
    scratch.locator('.jp-CodeCell').nth(CELLS.index(name)).locator('.cm-content').click()
    scratch.keyboard.press('End')
    scratch.keyboard.press('Shift+Tab')
    tip = scratch.locator('.jp-Tooltip', has_text=re.compile(r'\w')) # at first it is empty
    tip.wait_for()
    text,is_cut = ' '.join(tip.inner_text().split()),tip.evaluate('e => [e, ...e.querySelectorAll("div, pre")].some(box => box.scrollWidth>box.clientWidth+1)')
    scratch.keyboard.press('Escape')
    tip.wait_for(state='detached')
    assert text.startswith(f"def {SCRATCH[name].split('.')[-1]}( "), text # as rendered, without marks of Markdown
    for part in TIPS[name]: assert part in text, text
    assert not is_cut, 'wider than its box'

def test_a_saved_drawing_shows_before_anything_was_run(scratch):
    cell = scratch.locator('.jp-CodeCell').nth(CELLS.index('saved'))
    cell.locator('.jp-RenderedHTML').wait_for(state='attached')
    assert cell.locator('.jp-RenderedHTML svg').count()==1

@pytest.mark.parametrize('name, shown', [('learn', 'table'), ('data', 'table'), ('run', 'table'), ('schedule', 'svg, img')])
def test_an_object_shows_what_it_is(scratch, name, shown):
    "As a table or a picture, not as a line of text."
    index = CELLS.index(name)
    output, = run_cell(scratch, index)
    assert 'text/html' in output['data'], output
    seen = scratch.locator('.jp-CodeCell').nth(index).locator('.jp-OutputArea-output').locator(shown)
    seen.first.wait_for()
    assert seen.first.bounding_box()['width']>100

WATCH = '''index => { // keeps in `seen` whatever the outputs of the cell look like, one after another
    const cell = document.querySelectorAll('.jp-CodeCell')[index], seen = window.seen = [], plots = [];
    const look = () => {
        const all = q => [...cell.querySelectorAll(`.jp-OutputArea-output ${q}`)];
        for (const img of all('img')) if (!plots.includes(img.src)) plots.push(img.src);
        const now = {outputs: cell.querySelectorAll('.jp-OutputArea-output').length, rows: all('tbody tr').length, bars: all('pre').map(e => e.textContent),
                     images: all('img').length, plots: plots.length};
        if (JSON.stringify(now) != JSON.stringify(seen.at(-1))) seen.push(now);
    };
    new MutationObserver(look).observe(cell, {childList: true, subtree: true, characterData: true, attributes: true});
}'''

def test_bar_plot_and_table_grow_in_one_output(scratch):
    index = CELLS.index('fit')
    scratch.evaluate(WATCH, index)
    assert complaints(run_cell(scratch, index))==[]
    seen = scratch.evaluate('seen')
    bars = [bar for now in seen for bar in now['bars']]
    for epoch in 1,2,3: assert any(f'epoch {epoch} of 3' in bar and 'loss ' in bar for bar in bars), bars
    assert any('validating' in bar for bar in bars), bars
    assert max(now['outputs'] for now in seen)==1 and max(len(now['bars']) for now in seen)==1, seen
    rows = [now['rows'] for now in seen if now['outputs']]
    assert sorted(set(rows))==[0,1,2,3] and rows==sorted(rows), rows
    assert seen[-1]['plots']>=3, 'drawn as training begins, again after two seconds, and at the end: the fit takes more than three'
    assert seen[-1]['bars']==[] and seen[-1]['images']==1 and seen[-1]['rows']==3, seen[-1]

def test_the_server_did_not_complain(lesson, scratch, copy):
    log = copy.log.read_text()
    assert 'Saving file' in log and not [line for line in log.splitlines() if line.startswith(('[E', '[C', 'Traceback'))], log

def test_nothing_was_asked_of_another_host(lesson, scratch): assert lesson.strangers+scratch.strangers==[]
