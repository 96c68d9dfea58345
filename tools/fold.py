"Fold in JupyterLab, too, what `#| code-fold: true` folds on the site: `python tools/fold.py [nbs/05_anneal.ipynb ...]`"
import re, sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDED = re.compile(r'^#\|\s*code-fold:\s*true\s*$', re.MULTILINE)

def as_said(cell):
    "The metadata `jupyter` of a code cell, as its `code-fold` asks for."
    jupyter = {k: v for k,v in cell.metadata.get('jupyter', {}).items() if k!='source_hidden'}
    return jupyter | ({'source_hidden': True} if FOLDED.search(cell.source) else {})

def wrong(nb):
    "The code cells of a notebook that JupyterLab does not fold as the site does."
    return [cell for cell in nb.cells if cell.cell_type=='code' and cell.metadata.get('jupyter', {})!=as_said(cell)]

def mend(path):
    "Set the metadata of all code cells; returns how many were changed."
    nb = nbformat.read(path, as_version=4)
    cells = wrong(nb)
    for cell in cells:
        cell.metadata.pop('jupyter', None)
        if as_said(cell): cell.metadata['jupyter'] = as_said(cell)
    if cells: nbformat.write(nb, path)
    return len(cells)

if __name__ == '__main__':
    paths = [Path(p) for p in sys.argv[1:]] or sorted((ROOT/'nbs').glob('*.ipynb'))
    for path in paths: print(f'{path.name}: {mend(path)} cells changed')
