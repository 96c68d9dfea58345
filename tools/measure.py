"""Print the limits that the project keeps, one a line: `python tools/measure.py`. Exits with 1 if one is exceeded.

A module belongs to its notebook's part: the lesson (00 to 05, without 04b), the workshop (up to 29) or the proof."""
import ast, re, sys
from pathlib import Path

import nbformat
from IPython.core.inputtransformer2 import TransformerManager

ROOT = Path(__file__).resolve().parent.parent
SHORT_WAY = '00 03 04 05'.split() # an evening; of 00 without the section on the file format
VAGUE = re.compile(r'\b(whoever|nobody|somebody)\b', re.I)
CONTRACTION = re.compile(r"\b(\w+n['’]t|\w+['’](re|ve|ll|m)|(it|that|what|here|there|let|he|she)['’]s)\b", re.I)

def notebooks(): return {path.stem: nbformat.read(path, as_version=4) for path in sorted((ROOT/'nbs').glob('*.ipynb'))}
def code_cells(nb): return [cell for cell in nb.cells if cell.cell_type=='code']
def markdown(nb): return '\n\n'.join(cell.source for cell in nb.cells if cell.cell_type=='markdown')
def says(cell, directives): return bool(re.search(rf'^#\|\s*({directives})\s*$', cell.source, re.M))
def parse(cell): return ast.parse(TransformerManager().transform_cell(cell.source)) # makes Python of `%magic`
def filled(text): return [line for line in text.splitlines() if line.strip()]
def number(stem): return stem.split('_')[0]

def words(text):
    "How many words a text has, without blocks of code, tags and the addresses of links."
    prose = re.sub(r'^```.*?^```|</?\w[^>\n]*>|\]\([^)\n]*\)', ' ', text, flags=re.M|re.S)
    return sum(any(map(str.isalnum, word)) for word in prose.split())

def part(stem):
    "The part of the course that a notebook belongs to."
    if '00'<=number(stem)<='05' and number(stem)!='04b': return 'lesson'
    return 'proof' if '30'<=number(stem)<='99' else 'workshop'

def code_lines(cell):
    "The lines of a cell but for alternative text, which has to stand on one line."
    return [line for line in filled(cell.source) if not line.startswith('#| fig-alt:')]

def crowded(tree):
    "Assignments such as `a,b,c = 1,2,3`, of three or more values."
    def many(node): return isinstance(node, ast.Tuple) and len(node.elts)>2
    assigned = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return [node for node in assigned if many(node.value) and any(map(many, node.targets))]

def only_asserts(cell):
    "Whether a cell asserts something and shows nothing, neither an output nor a class."
    return bool(re.search(r'\bassert\b|\btest_\w+\(|expect_fail', cell.source)
                and not cell.outputs and not re.search(r'^class ', cell.source, re.M))

def modules():
    "The modules that notebooks export: {name: (part, text)}, in the order of the notebooks."
    paths = [path for path in (ROOT/'lesson9').glob('[!_]*.py') if path.stem!='all']
    texts = {path.stem: path.read_text(encoding='utf-8') for path in paths}
    stems = {name: re.search(r'File to edit: .*?(\w+)\.ipynb', text)[1] for name,text in texts.items()}
    return {name: (part(stems[name]), texts[name]) for name in sorted(stems, key=stems.get)}

def short_way(texts):
    "What one reads in an evening."
    chosen = [text for stem,text in texts.items() if number(stem) in SHORT_WAY]
    return re.sub(r'^## The IDX format.*?(?=^## )', '', '\n\n'.join(chosen), flags=re.M|re.S)

def measure_package():
    found = modules()
    for name,(where,text) in found.items():
        yield f'lines of {name}, {where}', len(filled(text)), {'lesson': 220, 'workshop': 149}.get(where)
    yield 'lines of the lesson', sum(len(filled(text)) for where,text in found.values() if where=='lesson'), 900

    text = found['callbacks'][1]
    runner = next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name=='Runner')
    yield 'lines of Runner', len(filled(ast.get_source_segment(text, runner))), 89

    everything = '\n'.join(text for _,text in found.values())
    widths = [len(line) for line in filled(everything)]
    yield 'longest line of lesson9', max(widths), 120
    yield 'lines of lesson9 over 120, %', 100*sum(width>120 for width in widths)/len(widths), 0
    yield '@patch in lesson9', len(re.findall(r'^@patch', everything, re.M)), 12
    yield 'assignments of three or more values in lesson9', len(crowded(ast.parse(everything))), 0
    import lesson9.all
    yield 'exports of lesson9.all', len(lesson9.all.__all__), None

def measure_notebooks():
    nbs = notebooks()
    texts = {stem: markdown(nb) for stem,nb in nbs.items()}
    text,n = '\n\n'.join(texts.values()),sum(map(words, texts.values()))
    vague = [word for nb in nbs.values() for cell in nb.cells for word in VAGUE.findall(cell.source)]
    yield 'words, the short way', words(short_way(texts)), 12_000
    yield 'words, the long way', n, None
    yield 'whoever, nobody, somebody, per 1,000 words', 1000*len(vague)/n, 0.2
    yield 'for example, per 1,000 words', 1000*len(re.findall('for example', text, re.I))/n, None
    yield 'contractions, per 1,000 words', 1000*len(CONTRACTION.findall(text))/n, None

    cells = [cell for nb in nbs.values() for cell in code_cells(nb)]
    unseen = [cell for cell in cells if says(cell, 'hide|export|default_exp.*')]
    folded = [cell for cell in cells if says(cell, r'code-fold:\s*true') and cell not in unseen]
    visible = [cell for cell in cells if cell not in unseen and cell not in folded]
    lines = [line for cell in cells for line in code_lines(cell)]
    crowds = [node for cell in cells for node in crowded(parse(cell))]
    yield 'code cells, visible', len(visible), None
    yield 'code cells, folded', len(folded), None
    yield 'code cells, not on the site', len(unseen), None
    yield 'code cells, visible, that only assert', sum(map(only_asserts, visible)), None
    yield "longest line of the notebooks' code", max(map(len, lines)), 120
    yield 'assignments of three or more values, per 100 lines', 100*len(crowds)/len(lines), 0

def measure_times():
    "What the last test run wrote into .test-times: seconds and a name on each line."
    path = ROOT/'.test-times'
    for line in path.read_text(encoding='utf-8').splitlines() if path.exists() else ():
        seconds,name = line.split(maxsplit=1)
        yield f'seconds, {name}', float(seconds), 300 if name=='make test' else None

if __name__ == '__main__':
    over = 0
    for what,value,limit in [*measure_package(), *measure_notebooks(), *measure_times()]:
        shown = f'{value:,}' if isinstance(value, int) else f'{value:,.1f}'
        most = '' if limit is None else f'(at most {limit:,})'
        exceeded = limit is not None and value>limit
        print(f'{what:52}{shown:>8}  {most}{" OVER" if exceeded else ""}'.rstrip())
        over += exceeded
    sys.exit(1 if over else 0)
