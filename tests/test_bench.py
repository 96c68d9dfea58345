"""The benchmarks run, on little data. Their figures aren't tested: they are in bench/results and on the page about
speed."""
import json, sys
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

def test_gpu_benchmark_can_be_tried_without_one(bench, tmp_path):
    out = tmp_path/'gpu.json'
    size = ['--device', 'cpu', '--images', 200, '--rounds', 1, '--runs', 0, '--best-runs', 0]
    ways = 'plain', '+ MixedPrecision', '+ DeviceLoader', '+ CudaGraph'
    bench('gpu', *size, '--workloads', 'mlp784-bs64', '--ways', *ways, '--out', out)
    found = json.loads(out.read_text())
    assert len(found['workloads']['mlp784-bs64'])==4
    for way,r in found['workloads']['mlp784-bs64'].items(): assert r['weights_differ']<1e-6 and len(r['ratio'])==1, way
    assert [len(times) for times in found['loaders'].values()]==[1]*6

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
    monkeypatch.setattr(cells, 'ROOT', tmp_path)
    cells.save({'x.ipynb': found})
    saved = json.loads((nbs/'x.ipynb').read_text())['cells']
    assert [len(cell['outputs']) for cell in saved]==[0, 0, 2, 0, 0]
