"""The page of recipes runs where each warning is an error and Python leaves out asserts, and fails where a recipe's
check fails."""
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# As it is imported, torchmetrics calls torch.jit.script, which PyTorch has deprecated.
WARNINGS = 'error,ignore::DeprecationWarning:torch.jit._script'
PROBES = dict(fails="check(False, 'nothing')", warns="import warnings; warnings.warn('this')", asserts='assert False')

def test_recipes_without_asserts_and_warnings(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT/'bench'))
    monkeypatch.setenv('PYTHONWARNINGS', WARNINGS) # -W, and of all processes that the page starts
    monkeypatch.setenv('PYTHONOPTIMIZE', '1')      # -O
    import cells
    page = json.loads((ROOT/'nbs'/'25_recipes.ipynb').read_text(encoding='utf-8'))
    page['cells'] += [dict(cell_type='code', id=name, source=source) for name,source in PROBES.items()]
    (tmp_path/'recipes.ipynb').write_text(json.dumps(page), encoding='utf-8')
    found = cells.run_alone(tmp_path/'recipes.ipynb', 'cpu', 240)
    failed = {name: trace for name,trace in found['failed'].items() if name not in PROBES}
    assert not failed, '\n'.join(failed.values())
    assert set(found['failed'])=={'fails', 'warns'} # both options were on, and checks aren't left out
