"""Run notebooks from a clean kernel and save their outputs: `python tools/lessons.py [nbs/05_anneal.ipynb ...]`

A cell marked `#| cuda` is left as it was where there is no CUDA device, and named as it is passed over. One marked
`#| notest` is for readers to run, and loses whatever output a reader's run has left.
A notebook that fails is not saved, so its last good outputs stay."""
import re, sys, time
from pathlib import Path

import nbformat, torch
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
FLAG = re.compile(r'^\s*#\s*\|\s*(\w+)\s*$', re.MULTILINE)

class LessonClient(NotebookClient):
    "Executes a notebook, passing over the cells that this machine cannot run."
    async def async_execute_cell(self, cell, cell_index, **kwargs):
        flags = set(FLAG.findall(cell.source)) if cell.cell_type=='code' else set()
        if 'notest' in flags: cell.outputs = []
        elif 'cuda' in flags and not torch.cuda.is_available():
            print(f'  passed over cell {cell.id}, marked cuda: its saved output stays')
        else: return await super().async_execute_cell(cell, cell_index, **kwargs)
        return cell

def run(path):
    "Run one notebook in place; returns whether it passed."
    nb = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    folder = {'metadata': {'path': str(path.parent)}}
    client = LessonClient(nb, timeout=1800, kernel_name='python3', coalesce_streams=True, resources=folder)
    try: client.execute()
    except CellExecutionError as e:
        print(f'{path.name}: FAILED, not saved\n{e}', file=sys.stderr)
        return False
    nbformat.write(nb, path)
    print(f'{path.name}: {time.perf_counter()-start:.1f} s')
    return True

if __name__ == '__main__':
    paths = [Path(p).resolve() for p in sys.argv[1:]] or sorted((ROOT/'nbs').glob('*.ipynb'))
    sys.exit(0 if all([run(p) for p in paths]) else 1)
