"A run that's killed and started again ends as one that was never stopped: a small part of `make soak`."
import json, sys
from pathlib import Path

import pytest

if not sys.platform.startswith('linux'): pytest.skip('needs Linux', allow_module_level=True)

import soak

@pytest.fixture(autouse=True)
def no_problems():
    soak.problems.clear()
    yield
    assert not soak.problems

def test_killed_at_random_times(tmp_path):
    found = soak.kills(tmp_path, 5)
    assert found['kills']>=5 and found['equal']==found['runs']>0

def test_killed_at_each_point_of_a_save(tmp_path):
    "The third one, which deletes the first."
    found = soak.moments(tmp_path, epochs=2, every=3, opened=2)
    assert found['equal']==sum(found['points'].values())
    for name in 'open','write','fsync','replace','unlink':
        assert {f'before {name}', f'after {name}'}<=set(found['points'])

def test_ranks_killed_at_random_times(tmp_path):
    found = soak.ranks(tmp_path, 1)
    assert found['kills']>=1 and found['equal']==found['runs']>0 and found['others_ended_within']<30

def test_only_new_figures_replace_old_ones(tmp_path, monkeypatch):
    out = tmp_path/'soak.json'
    def run(*parts):
        monkeypatch.setattr(sys, 'argv', ['soak.py', *parts, '--out', str(out)])
        with pytest.raises(SystemExit, match='^0$'): soak.main()
        return {k: v for k,v in json.loads(out.read_text()).items() if k in 'abc'}
    monkeypatch.setattr(soak, 'PARTS', {name: lambda folder, name=name: {'found': name} for name in 'ab'})
    assert list(run())==['a', 'b']
    monkeypatch.setitem(soak.PARTS, 'a', lambda folder: {'found': 'new'})
    found = run('a')
    assert found['a']['found']=='new' and found['b']['found']=='b'

def test_benchmark_of_checkpoint_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent/'bench'))
    import checkpoint
    monkeypatch.setitem(checkpoint.CASES, 'small', ([8], 8, 4, 2, 5, 2))
    found = checkpoint.measure('small', 1, tmp_path, soak.x, soak.y)
    assert len(found['with_it'])==len(found['without'])==2 and found['step_ms']>0
    assert min(found['save_ms'].values())>=0 and found['save_ms']['whole']>0
