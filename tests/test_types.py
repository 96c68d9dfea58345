"A type checker and an editor find every public method of every exported class, without running anything."
import importlib, inspect, pkgutil, re, subprocess, sys
from pathlib import Path
from types import FunctionType

import jedi
import pytest

import lesson9

ROOT = Path(__file__).resolve().parent.parent

def exported_classes():
    "Classes that lesson9 exports: {class: 'Class' if lesson9.all has it, otherwise 'lesson9.module.Class'}."
    paths = sorted({info.name for info in pkgutil.iter_modules(lesson9.__path__, 'lesson9.')} - {'lesson9.all'})
    modules = [importlib.import_module(path) for path in [*paths, 'lesson9.all']]
    names = [(module, k) for module in modules for k in getattr(module, '__all__', ())]
    full = {getattr(module, k): f'{module.__name__}.{k}' for module,k in names if isinstance(getattr(module, k), type)}
    return {cls: name.removeprefix('lesson9.all.') for cls,name in full.items()}

CLASSES = exported_classes()
MODULES = {name.rpartition('.')[0] for name in CLASSES.values()} - {''}
IMPORTS = ['from lesson9.all import *', *(f'import {module}' for module in sorted(MODULES))]

def methods(cls):
    "Public methods and properties that lesson9 gave to a class, or to one that it inherits from."
    ours = {k for base in cls.__mro__ if base.__module__.startswith('lesson9.') for k in vars(base)}
    kinds = FunctionType | classmethod | staticmethod | property
    return sorted(k for k in ours if not k.startswith('_') and isinstance(inspect.getattr_static(cls, k), kinds))

def use(cls, k):
    """A line that calls method `k` with all its arguments by name, or reads property `k`.

    It asks the class, not an object: a `Callback` has a `__getattr__`, so an object of it seems to have everything."""
    name,method = f'{CLASSES[cls]}.{k}',getattr(cls, k)
    if isinstance(method, property): return name
    args = ['obj'] if isinstance(inspect.getattr_static(cls, k), FunctionType) else []
    params = [*inspect.signature(method).parameters.values()][len(args):]
    args += [f'{p.name}=anything' for p in params if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    return f"{name}({', '.join(args)})"

def test_mypy_finds_every_method(tmp_path):
    "It doesn't see what `@patch` adds. What a later lesson adds to `Runner` is declared there: `validate: Callable`."
    lines = [*IMPORTS, 'from typing import Any', 'anything: Any']
    for i,(cls,name) in enumerate(CLASSES.items()):
        lines += [f'def uses_{i}(obj: {name}):', '    pass', *(f'    {use(cls, k)}' for k in methods(cls))]
    lines += ['Runner.no_such_method'] # which mypy does not find
    (tmp_path/'uses.py').write_text('\n'.join(lines))

    command = [sys.executable, '-m', 'mypy', 'lesson9', tmp_path/'uses.py']
    mypy = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    *found,(last,_) = re.findall(r'uses\.py:(\d+): error: (.*)', mypy.stdout) or [(0, mypy.stdout+mypy.stderr)]
    assert not found, '\n'.join(['', *(f'{lines[int(n)-1].strip()}: {said}' for n,said in found)])
    assert int(last)==len(lines), mypy.stdout+mypy.stderr

def complete(code, first=-1):
    "What an editor offers at the end of each line of `code`, from number `first` on; usually that's only the last."
    script,lines = jedi.Script(code, project=jedi.Project(ROOT)),code.splitlines()
    return [{found.name for found in script.complete(i+1, len(lines[i]))} for i in range(len(lines))[first:]]

def test_jedi_finds_every_method():
    "In one text, because what jedi has found out for one class it need not find out for the next."
    code = '\n'.join([*IMPORTS, *(f'{name}.' for name in CLASSES.values())])
    offers = zip(CLASSES.items(), complete(code, len(IMPORTS)))
    missing = [f'{name}.{k}' for (cls,name),offered in offers for k in methods(cls) if k not in offered]
    assert not missing, '\n'.join(['', *missing])

@pytest.mark.parametrize('code, name', [
    ('Runner().f', 'fit'), ('SGD.s', 'step'), ('LRFinder.p', 'plot'), ('Recorder().plot_l', 'plot_lr'),
    ('learn,run = get_runner(model, data)\nrun.f', 'fit'), ('ProgressCallback(plot=True).plot', 'plot_loss'),
])
def test_jedi_completes(code, name): assert name in complete(f'from lesson9.all import *\n{code}')[0]
