"""What lets a notebook start in Google Colab: `python tools/colab.py [nbs/05_anneal.ipynb ...]`

Puts a line into the hidden first code cell of each notebook that installs the package from the address in settings.ini,
and whatever else the cells import. It does so only where there's a folder /content, as in Colab. binder/ has the same
for Binder."""
import ast, re, sys
from configparser import ConfigParser
from pathlib import Path

import nbformat
from measure import code_cells, parse, says

ROOT = Path(__file__).resolve().parent.parent
# What Colab has. The last cell of a notebook exports it with nbdev, which would find nothing to do there.
IN_COLAB = set('IPython matplotlib_inline ipywidgets tensorboard yaml nbdev'.split())

def address(cfg): return f"https://github.com/{cfg['user']}/{cfg['repo']}"

def imports(nb):
    "The packages that a notebook's cells import, without Python's own and this one."
    nodes = [node for cell in code_cells(nb) for node in ast.walk(parse(cell))]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    own = {'lesson9', *(path.stem for path in (ROOT/'tools').glob('*.py'))}
    return {name.split('.')[0] for name in names} - set(sys.stdlib_module_names) - own

def required(cfg): return {re.split('[>=]', need)[0] for need in cfg['requirements'].split()}

def shows_symbols(nb): return any('nbdev.showdoc' in cell.source for cell in code_cells(nb))

def reads_files(nb):
    "Whether a notebook reads files of this repository, which come with no package."
    return any(re.search(r"\('\.\./bench|cells_of\('\d|config_path/'tools'", cell.source) for cell in code_cells(nb))

def first_lines(nb, cfg):
    "The lines for Colab; in other places they do nothing."
    more = imports(nb) - required(cfg) - IN_COLAB | ({'nbdev'} if shows_symbols(nb) else set())
    lines = [' '.join([f"![ -d /content ] && pip install -q git+{address(cfg)}@{cfg['branch']}", *sorted(more)])]
    if reads_files(nb):
        lines += [f"![ -d /content ] && git clone -q --depth 1 -b {cfg['branch']} {address(cfg)} /repo",
                  '![ -d /content ] && ln -s /repo/bench /repo/tools /repo/settings.ini / && ln -s /repo/nbs/* .']
    return lines

def set_up(nb, cfg):
    "Give a notebook its lines; returns whether it lacked them."
    first = code_cells(nb)[0]
    if not says(first, 'hide'): raise ValueError(f'the first code cell is not hidden: {first.source}')
    rest = [line for line in first.source.splitlines()[1:] if not line.startswith('![ -d /content ]')]
    source = '\n'.join(['#| hide', *first_lines(nb, cfg), *rest])
    changed,first.source = source!=first.source,source
    return changed

def settings():
    cfg = ConfigParser()
    cfg.read(ROOT/'settings.ini', encoding='utf-8')
    return cfg['DEFAULT']

if __name__ == '__main__':
    for path in [Path(p) for p in sys.argv[1:]] or sorted((ROOT/'nbs').glob('*.ipynb')):
        nb = nbformat.read(path, as_version=4)
        if code_cells(nb) and set_up(nb, settings()):
            nbformat.write(nb, path)
            print(path.name)
