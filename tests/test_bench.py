"The benchmarks run, on little data. Their figures are no test: those are in bench/results and nbs/10_speed.ipynb."
import json, os, subprocess, sys
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent/'bench'

def run(script, *args):
    done = subprocess.run([sys.executable, BENCH/script, *map(str, args)], capture_output=True, text=True, env=os.environ | {'PYTHONPATH': str(BENCH.parent), 'OMP_NUM_THREADS': '1'})
    assert done.returncode==0, done.stdout+done.stderr
    return done.stdout

def test_contenders_train_alike(tmp_path):
    out = tmp_path/'cpu.json'
    ours = 'hand dataloader_getitems lesson9_stats lesson9_full'.split()
    said = run('run.py', '--images', 640, '--rounds', 1, '--workloads', 'mlp16-bs64', '--contenders', *ours, 'no_such_library', '--out', out)
    found = json.loads(out.read_text())
    results = found['workloads']['mlp16-bs64']
    for name in ours:
        assert results[name].get('weights_differ', 1)<1e-6, (name, results[name])
        assert len(results[name]['overhead_us'])==1 and results[name]['steps']==10
    assert results['lesson9_full']['against']=='hand_momentum'
    assert 'no_such_library' in results['no_such_library']['failed'] # reported, not dropped
    assert 'could not be run' in said
    assert found['machine']['versions']['torch'] and min(found['memory']['lesson9_stats']['peak_mib'])>100

def test_gpu_benchmark_can_be_tried_without_one(tmp_path):
    out = tmp_path/'gpu.json'
    run('gpu.py', '--device', 'cpu', '--images', 200, '--rounds', 1, '--runs', 0, '--workloads', 'mlp784-bs64', '--ways', 'plain', '+ MixedPrecision', '+ DeviceLoader', '+ CudaGraph', '--out', out)
    found = json.loads(out.read_text())
    for way,r in found['workloads']['mlp784-bs64'].items(): assert max(r['weights_differ'])<1e-3, way
