"""The benchmarks run, on little data. Their figures aren't tested: they are in bench/results and on the page about
speed."""
import contextlib, itertools, json, os, subprocess, sys, time
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parent.parent/'bench'
IMAGES = 640

@pytest.fixture
def bench(monkeypatch):
    "Run a script of bench/ in this process, which imports PyTorch once for all of them."
    monkeypatch.syspath_prepend(str(BENCH))
    def run(name, *args):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        __import__(name).main()
    return run

def test_contenders_train_alike(bench, monkeypatch):
    import contenders, loops, torch
    work = loops.get_work('mlp16-bs64', IMAGES)
    def weights(name):
        model = work.model()
        getattr(contenders, name)(work, model)
        return torch.cat([p.detach().flatten() for p in model.parameters()])
    for name in 'dataloader_getitems', 'lesson9_stats', 'lesson9_full':
        assert (weights(name)-weights(contenders.same_as.get(name, 'hand'))).abs().max()<1e-6, name
    assert contenders.against['lesson9_full']=='hand_momentum'

@pytest.mark.parametrize('peer', ['fastai', 'lightning', 'ignite', 'skorch', 'accelerate'])
def test_libraries_train_alike(bench, peer):
    "Bare, with statistics, and with their fastest settings."
    pytest.importorskip(peer, reason=f'{peer} is not installed here: `make bench` has an environment for it')
    import contenders, loops
    assert peer in contenders.peers
    work = loops.get_work('mlp16-bs64', IMAGES)
    def weights(name):
        model = work.model()
        batches = getattr(contenders, name)(work, model)
        assert batches.seconds>0, name
        return [p.detach() for p in model.parameters()]
    for kind in '', '_stats', '_fast':
        for found,expected in zip(weights(peer+kind), weights('hand')): assert (found-expected).abs().max()<1e-6, kind

def test_compiled_steps_train_alike(bench, monkeypatch, tmp_path, capsys):
    "All forms of the step, and those with a Runner; without a compiler and without new processes, which take minutes."
    import compiled, torch
    monkeypatch.setattr(torch, 'compile', lambda f=None, **kwargs: f or (lambda f: f))
    monkeypatch.setattr(compiled, 'in_new_process', lambda *args: compiled.measure(*args[:-1]))
    out = tmp_path/'compiled.json'
    bench('compiled', '--workloads', 'mlp16-bs64', '--images', IMAGES, '--rounds', 2, '--out', out)
    found = json.loads(out.read_text())['workloads']['mlp16-bs64']
    assert list(found)==['apart', 'together', 'whole']
    for form,r in found.items():
        assert r['weights_differ']<1e-6 and r['steps']==10 and r['compile']>0 and r['from_cache']>0, form
        assert set(r['seconds'])=={'hand', 'compiled', 'runner'}-({'runner'} if form=='together' else set())
        assert all(len(times)==2 for times in r['seconds'].values()), form
    assert 'times as long as by hand' in capsys.readouterr().out

def test_contenders_take_turns(bench, tmp_path, capsys):
    "Each in a process of its own; one that cannot be run is reported, not dropped."
    out = tmp_path/'cpu.json'
    workload = ['--workloads', 'mlp16-bs64', 'mlp16-bs512', '--images', IMAGES, '--rounds', 1]
    bench('run', *workload, '--contenders', 'lesson9_stats', 'no_such_library', '--out', out)
    found = json.loads(out.read_text())
    for workload,steps in ('mlp16-bs64', 10), ('mlp16-bs512', 2):
        results = found['workloads'][workload]
        ours = results['lesson9_stats']
        assert ours['weights_differ']<1e-6 and len(ours['overhead_us'])==1 and ours['steps']==steps, ours
        assert 'no_such_library' in results['no_such_library']['failed']
    assert 'could not be run' in capsys.readouterr().out
    assert found['machine']['versions']['torch'] and min(found['memory']['lesson9_stats']['peak_mib'])>100

def test_loops_take_turns_batch_by_batch(bench):
    "Each gets its own loader's batches, a few in a turn, and its seconds hold nothing of the others'."
    from turns import take_turns
    seen = []
    def loop(name, seconds):
        def train(batches):
            for i in batches:
                time.sleep(seconds)
                seen.append(f'{name}{i}')
            seen.append(f'{name} ends')
        return train
    loops = {'a': (loop('a', 0.2), [0, 1, 2]), 'b': (loop('b', 0), [0, 1, 2]), 'c': (loop('c', 0), [0])}
    seconds = take_turns(loops, 2)
    assert seen==['a0', 'a1', 'b0', 'b1', 'c0', 'c ends', 'a2', 'a ends', 'b2', 'b ends']
    assert list(seconds)==['a', 'b', 'c']
    assert seconds['a']>=0.6 and max(seconds['b'], seconds['c'])<0.2

def fails_early(batches): raise ZeroDivisionError
def fails_late(batches): raise ZeroDivisionError(next(iter(batches)))

@pytest.mark.parametrize('fails', [fails_early, fails_late])
def test_a_loop_that_fails_in_its_turn_ends_no_other(bench, fails):
    from turns import take_turns
    seen = []
    with pytest.raises(ZeroDivisionError):
        take_turns({'fails': (fails, [0, 1]), 'other': (lambda batches: seen.extend(batches), [0, 1])}, 1)
    assert seen==[0, 1]

def test_a_loop_that_asks_for_its_batches_twice_is_timed_twice(bench):
    from turns import take_turns
    def twice(batches):
        for _ in range(2):
            for _ in batches: time.sleep(0.01)
    assert take_turns({'twice': (twice, [0, 1]), 'never': (lambda batches: None, [])}, 1)['twice']>=0.04

def test_statistics_are_compared_in_whole_epochs(bench):
    import growth
    found = growth.compare_statistics(growth.loops.get_work('mlp16-bs64', IMAGES), 2)
    assert list(found)==['hand', 'hand_stats', 'lesson9', 'lesson9_stats', 'lesson9_full']
    assert all(len(us)==2 and min(us)>0 for us in found.values())

def test_gpu_benchmark_can_be_tried_without_one(bench, tmp_path, monkeypatch, capsys):
    "Its parts write one file, also in several calls; what has no time is named, and the rest stays."
    out = tmp_path/'gpu.json'
    size = ['--device', 'cpu', '--images', 200, '--rounds', 1, '--runs', 1, '--epochs', 1, '--out', out]
    ways = 'plain', '+ MixedPrecision', '+ DeviceLoader', '+ CudaGraph'
    work = ['--workloads', 'mlp784-bs64']
    bench('gpu', *size, *work, '--ways', *ways, '--recipes')
    found = json.loads(out.read_text())
    assert len(found['workloads']['mlp784-bs64'])==4
    for way,r in found['workloads']['mlp784-bs64'].items():
        assert r['weights_differ']<1e-6 and len(r['ratio'])==1, way
        assert (r['waits'], r['steps'])==(0, 4), way
    assert [len(times) for times in found['loaders'].values()]==[1]*6 and found['left_out']==[]

    import gpu
    few = [t[:300] for t in gpu.get_data()]
    monkeypatch.setattr(gpu, 'get_data', lambda: few)
    bench('gpu', *size, '--parts', 'times')
    again = json.loads(out.read_text())
    assert {name: again.pop(name) for name in found}==found
    assert {name: [run['epochs'] for run in runs] for name,runs in again.items()}=={'to_99': [1], 'to_99.4': [1]}
    capsys.readouterr()
    bench('gpu', *size, *work, '--parts', 'ways', 'times', '--seconds', -1)
    late = json.loads(out.read_text())
    assert late['left_out']==['mlp784-bs64', 'to_99, run 0', 'to_99.4, run 0']
    assert late['workloads']==found['workloads'] and 'left out, no time: to_99, run 0' in capsys.readouterr().out

def test_waits_are_counted(bench):
    import gpu, torch
    class Reads(gpu.Callback):
        def after_batch(self): self.run.loss.item()
    work = gpu.loops.get_work('mlp784-bs64', 200)
    turns = gpu.Turns(itertools.repeat((1., 0.)), 2, 60)
    model,opt = gpu.make(work, torch.device('cpu'))
    data = gpu.DataBunch(gpu.DataLoader(gpu.Dataset(work.x, work.y), 64))
    run = gpu.Runner([turns, Reads()])
    run.fit(9, gpu.Learner(model, opt, gpu.F.cross_entropy, data))
    assert (turns.waits, len(turns.found), run.epoch)==(4, 3, 3) # one read in each of four steps, after three epochs

NOTEBOOK = [["%load_ext lesson9\n", "import pickle, inspect\n", "def double(x): return 2*x\n"],
            ["#| slow\n", "1/0"],
            ["#| cuda\n", "print(inspect.getsource(double), end='')\n", "pickle.loads(pickle.dumps(double))(21)"],
            ["1/0"],
            ["#| cuda\n", "double('cuda');"]]

def test_cells_run_without_jupyter(tmp_path, monkeypatch):
    "All but the slow ones, also after one that fails; the outputs of those for a GPU are kept, and saved."
    monkeypatch.syspath_prepend(str(BENCH))
    import cells
    nbs = tmp_path/'nbs'
    nbs.mkdir()
    empty = dict(cell_type='code', metadata={}, outputs=[])
    made = [dict(empty, id=str(i), source=source) for i,source in enumerate(NOTEBOOK)]
    (nbs/'x.ipynb').write_text(json.dumps(dict(cells=made)))
    found = cells.run_alone(nbs/'x.ipynb', 'cpu', 60)
    assert list(found['failed'])==['3'] and 'ZeroDivisionError' in found['failed']['3']
    printed,result = found['outputs']['2']
    assert (printed['text'], result['data']['text/plain'])==('def double(x): return 2*x\n', '42')
    assert found['outputs']['4']==[]
    sleep = 'subprocess.run(["sleep", "61.25"])' # goes on in a process of its own
    endless = dict(empty, id='9', source=['import subprocess\n', sleep])
    (nbs/'cut.ipynb').write_text(json.dumps(dict(cells=[made[0], made[2], endless])))
    cut = cells.run_alone(nbs/'cut.ipynb', 'cpu', 15)
    assert cut['outputs']['2']==found['outputs']['2'] and cut['failed']=={'all': 'cut off after 15 s'}
    for path in Path('/proc').glob('[0-9]*/cmdline'): # where there are such files
        with contextlib.suppress(OSError): assert path.read_bytes()!=b'sleep\x0061.25\x00'
    imports = dict(empty, id='8', source=['import no_such_module\n', 'import math'])
    uses = dict(empty, id='7', source=['#| cuda\n', 'math.ceil(1.5)'])
    (nbs/'imports.ipynb').write_text(json.dumps(dict(cells=[imports, uses])))
    lacks = cells.run_alone(nbs/'imports.ipynb', 'cpu', 60)
    assert lacks['failed']=={'8': "No module named 'no_such_module'"}
    assert lacks['outputs']['7'][0]['data']['text/plain']=='2'

    monkeypatch.setattr(cells, 'ROOT', tmp_path)
    cells.save({'x.ipynb': found})
    saved = json.loads((nbs/'x.ipynb').read_text())['cells']
    assert [len(cell['outputs']) for cell in saved]==[0, 0, 2, 0, 0]

def test_notebooks_side_by_side(tmp_path, monkeypatch, capsys):
    "Those with cells for a GPU, and the others; what had no time is named, and what was found before stays."
    monkeypatch.syspath_prepend(str(BENCH))
    import cells
    cuda,rest = ([path.name for path in cells.find_notebooks(only)] for only in ('cuda', 'rest'))
    assert {'11_gpu.ipynb', '12_cuda_graph.ipynb'}<={*cuda} and '00_data.ipynb' in rest and not {*cuda} & {*rest}
    assert sorted(cuda+rest)==[path.name for path in cells.find_notebooks(None)]

    nbs = tmp_path/'nbs'
    nbs.mkdir()
    for name,source in ('a', '#| cuda\n1+1'), ('b', 'print(2)'):
        cell = dict(cell_type='code', id='0', metadata={}, outputs=[], source=[source])
        (nbs/f'{name}.ipynb').write_text(json.dumps(dict(cells=[cell])))
    monkeypatch.setattr(cells, 'ROOT', tmp_path)
    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['cells.py', str(tmp_path), '--device', 'cpu', *args])
        with pytest.raises(SystemExit) as end: cells.main()
        return end.value.code,json.loads((tmp_path/'cells.json').read_text())
    code,found = run('--only', 'cuda')
    assert not code and found['a.ipynb']['outputs']['0'][0]['data']=={'text/plain': '2'}
    code,found = run('--only', 'rest', '--seconds', '0')
    assert code and found['b.ipynb']['failed']=={'all': 'left out: no time'} and found['a.ipynb']['outputs']
    assert 'left out: no time' in capsys.readouterr().out

PYTHON = """#!/usr/bin/env bash
echo "$*"
case "$*" in *test_device*) exit 1;; esac
"""

@pytest.mark.parametrize('minutes', [8, 1])
def test_one_go_on_a_gpu(tmp_path, minutes):
    "The parts in their order, each with a limit; one that fails doesn't end the others; with no time they're left out."
    (tmp_path/'python3').write_text(PYTHON)
    (tmp_path/'python3').chmod(0o755)
    env = os.environ | {'PATH': f"{tmp_path}:{os.environ['PATH']}", 'MINUTES': str(minutes)}
    command = ['bash', BENCH/'on_gpu.sh', tmp_path/'out']
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    log = (tmp_path/'out'/'log.txt').read_text()
    assert log==done.stdout and not done.stderr, done.stderr
    began = [line.split()[1].rstrip(':') for line in log.splitlines() if 'at most' in line]
    left_out = [line.split()[-1] for line in log.splitlines() if line.startswith('== left out')]
    parts = ['versions', 'cuda-cells', 'callbacks', 'processes', 'ways', 'times', 'loaders', 'cells']
    if minutes==1: # limits of under ten seconds
        assert {*left_out}=={'versions', 'loaders'} and len(began)==6
        return
    assert (began[0], {*began[1:4]}, began[4:])==(parts[0], {*parts[1:4]}, parts[4:]) and not left_out
    assert done.returncode==1 and log.count('== failed')==1 and '== failed: callbacks' in log
    seconds = [int(line.rsplit(' ', 1)[1]) for line in log.splitlines() if '--seconds' in line and '--parts' in line]
    assert seconds==[165, 105, 35] and '--only rest --seconds' in log
