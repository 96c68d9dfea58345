"""The page of recipes runs where each warning is an error and Python leaves out asserts, and fails where a recipe's
check fails. What it shows of other libraries is run where they are installed."""
import json, re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = json.loads((ROOT/'nbs'/'25_recipes.ipynb').read_text(encoding='utf-8'))
# As it is imported, torchmetrics calls torch.jit.script, which PyTorch has deprecated.
WARNINGS = 'error,ignore::DeprecationWarning:torch.jit._script'
PROBES = dict(fails="check(False, 'nothing')", warns="import warnings; warnings.warn('this')", asserts='assert False')

def test_recipes_without_asserts_and_warnings(tmp_path, monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(str(ROOT/'bench'))
    monkeypatch.setenv('PYTHONWARNINGS', WARNINGS) # -W, and of all processes that the page starts
    monkeypatch.setenv('PYTHONOPTIMIZE', '1')      # -O
    # What -O compiles is kept for the next process, and the next time: to compile PyTorch takes longer than the page.
    monkeypatch.setenv('PYTHONPYCACHEPREFIX', str(pytestconfig.cache.mkdir('optimized')))
    monkeypatch.delenv('PYTHONDONTWRITEBYTECODE', raising=False)
    import cells
    probes = [dict(cell_type='code', id=name, source=source) for name,source in PROBES.items()]
    page = PAGE | dict(cells=PAGE['cells']+probes)
    (tmp_path/'recipes.ipynb').write_text(json.dumps(page), encoding='utf-8')
    found = cells.run_alone(tmp_path/'recipes.ipynb', 'cpu', 240)
    failed = {name: trace for name,trace in found['failed'].items() if name not in PROBES}
    assert not failed, '\n'.join(failed.values())
    assert set(found['failed'])=={'fails', 'warns'} # both options were on, and checks aren't left out

def recipes():
    "The cells below each heading, by the heading; those before the first by ''."
    found,heading = {'': []},''
    for cell in PAGE['cells']:
        source = ''.join(cell['source'])
        before,*parts = re.split(r'^## ', source, flags=re.M)
        if before.strip(): found[heading].append((cell['cell_type'], before))
        for part in parts:
            heading,text = part.split('\n', 1)
            found[heading] = [(cell['cell_type'], text)]
    return found

def shown(source): return not re.search(r'^#\| (hide|code-fold)', source, re.M)
def code(cells): return [source for kind,source in cells if kind=='code' and shown(source)]
def lines(source): return [line for line in source.splitlines() if line.strip() and not line.startswith('#|')]

RECIPES = recipes()
LIBRARIES = RECIPES['fastai, Lightning, Ignite and a plain loop']
TEXT = '\n'.join(source for kind,source in LIBRARIES if kind=='markdown')
BLOCKS = dict(zip(['fastai', 'lightning', 'ignite'], re.findall(r'^```python\n(.*?)^```', TEXT, re.M|re.S)))

@pytest.mark.parametrize('heading', [heading for heading in RECIPES if heading])
def test_recipe_is_short_and_is_linked(heading):
    "A recipe has lines that run, twenty at most, and is in the list at the top of the page."
    assert 0<sum(len(lines(source)) for source in code(RECIPES[heading]))<=20
    anchor = re.sub(r'[^\w-]', '', heading.lower().replace(' ', '-'))
    assert f'](#{anchor})' in RECIPES[''][1][1], anchor

def test_lines_of_other_libraries():
    "The table says how many lines each block has."
    said = [int(n) for n in re.findall(r'^\|.*\| (\d+) \|$', TEXT, re.M)]
    assert said[-3:]==[len(lines(block)) for block in BLOCKS.values()]

@pytest.mark.parametrize('package', BLOCKS)
def test_other_libraries_train_the_same(package, tmp_path, monkeypatch):
    "A block that the page doesn't run gives the weights of its plain loop, to the last bit."
    pytest.importorskip(package, reason=f'{package} is not installed: its recipe was not run')
    import torch
    monkeypatch.chdir(tmp_path) # some of them write files
    names = {}
    plain = code(LIBRARIES)[0]
    for source in [*code(RECIPES['']), plain]: exec(source, names)
    expected,names['model'] = names['model'],None
    exec(BLOCKS[package], names)
    pairs = zip(names['model'].parameters(), expected.parameters(), strict=True)
    assert all(torch.equal(p, q) for p,q in pairs)
    assert not list(tmp_path.iterdir())
