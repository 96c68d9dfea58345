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

def test_contenders_take_turns(bench, tmp_path, capsys):
    "Each in a process of its own; one that cannot be run is reported, not dropped."
    out = tmp_path/'cpu.json'
    workload = ['--workloads', 'mlp16-bs64', '--images', IMAGES, '--rounds', 1]
    bench('run', *workload, '--contenders', 'lesson9_stats', 'no_such_library', '--out', out)
    found = json.loads(out.read_text())
    results = found['workloads']['mlp16-bs64']
    ours = results['lesson9_stats']
    assert ours['weights_differ']<1e-6 and len(ours['overhead_us'])==1 and ours['steps']==10, ours
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
