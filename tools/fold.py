"""Fold in JupyterLab what `#| code-fold: true` folds on the site: `python tools/fold.py [nbs/05_anneal.ipynb ...]`

JupyterLab shows the first line of a folded cell, so that's the one with its summary."""
import re, sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
FOLDED = re.compile(r'^#\|\s*code-fold:\s*true\s*$', re.MULTILINE)
SUMMARY = re.compile(r'^#\|\s*code-summary:.*\n', re.MULTILINE)

def as_said(cell):
    "The metadata `jupyter` of a code cell, as its `code-fold` asks for."
    jupyter = {k: v for k,v in cell.metadata.get('jupyter', {}).items() if k!='source_hidden'}
    return jupyter | ({'source_hidden': True} if FOLDED.search(cell.source) else {})

def summary_first(source):
    "The source of a code cell, with its summary in the first line."
    found = SUMMARY.search(source)
    return found[0] + SUMMARY.sub('', source, count=1) if found else source

def wrong(nb):
    "The code cells of a notebook that JupyterLab does not fold as the site does, or without their summary."
    return [cell for cell in nb.cells if cell.cell_type=='code'
            and (cell.metadata.get('jupyter', {})!=as_said(cell) or cell.source!=summary_first(cell.source))]

def mend(path):
    "Set the metadata of all code cells; returns how many were changed."
    nb = nbformat.read(path, as_version=4)
    cells = wrong(nb)
    for cell in cells:
        cell.metadata.pop('jupyter', None)
        if as_said(cell): cell.metadata['jupyter'] = as_said(cell)
        cell.source = summary_first(cell.source)
    if cells: nbformat.write(nb, path)
    return len(cells)

if __name__ == '__main__':
    paths = [Path(p) for p in sys.argv[1:]] or sorted((ROOT/'nbs').glob('*.ipynb'))
    for path in paths: print(f'{path.name}: {mend(path)} cells changed')
