"""The rules of CONTRIBUTING.md that can be read off the notebooks' files.

ruff looks after the length of lines and the names in each cell, tools/measure.py after words and sizes."""
import ast, importlib, json, re, subprocess, sys
from functools import cache
from pathlib import Path

import nbformat
import pytest
from fold import wrong
from measure import code_cells, crowded, notebooks, parse, says

import lesson9.callbacks

NOTEBOOKS = notebooks()
TITLE = r'# .+\n\n> .+(\n\n(- \w+: .+\n?)+)?' # title, subtitle, and nbdev's settings
QUESTION = re.compile(r'<details( class="[\w-]+")?><summary>.+</summary>\n\n.+\n\n</details>\s*', re.S)
STAR = re.compile(r'^from (\S+) import \*$', re.M)
every_notebook = pytest.mark.parametrize('stem', NOTEBOOKS)

def at(stem, cell): return f'{stem}, cell {cell.id}'
def none(found): assert not found, '\n'.join(['', *found])

@every_notebook
def test_first_cell_is_title_and_subtitle(stem):
    "Other text in that cell would be lost from the site."
    first = NOTEBOOKS[stem].cells[0]
    assert first.cell_type=='markdown' and re.fullmatch(TITLE, first.source), first.source

@every_notebook
def test_jupyterlab_folds_what_the_site_folds(stem):
    none([f'{at(stem, cell)}: run `python tools/fold.py`' for cell in wrong(NOTEBOOKS[stem])])

@every_notebook
def test_jupyterlab_folds_questions(stem):
    "It shows a callout as `:::`. In `<details>` Markdown needs a blank line after the question and one before the end."
    cells = [cell for cell in NOTEBOOKS[stem].cells if cell.cell_type=='markdown']
    none([f'{at(stem, cell)}: a callout' for cell in cells if re.search(r'^:{3,}', cell.source, re.M)])
    questions = [cell for cell in cells if '<details' in cell.source]
    none([f'{at(stem, cell)}: {cell.source}' for cell in questions if not QUESTION.fullmatch(cell.source)])

@every_notebook
def test_no_output_is_an_error(stem):
    cells = code_cells(NOTEBOOKS[stem])
    none([at(stem, cell) for cell in cells if any(output.output_type=='error' for output in cell.outputs)])

@every_notebook
def test_no_output_has_a_path_of_a_machine(stem):
    "A warning names the temporary file that its cell was run from."
    path = re.compile(r'/tmp/ipykernel\w*|/home/\w+|/root/')
    for cell in code_cells(NOTEBOOKS[stem]):
        texts = [output.get('text', output.get('data', {}).get('text/plain', '')) for output in cell.outputs]
        none([f'{at(stem, cell)}: {found}' for found in path.findall('\n'.join(texts))])

@every_notebook
def test_exported_cells_leave_folding_to_nbdev(stem):
    "It gives them `code-fold` and `code-summary`. Quarto ends with an error where an option is given twice."
    cells = [cell for cell in code_cells(NOTEBOOKS[stem]) if says(cell, 'exports?')]
    none([at(stem, cell) for cell in cells if says(cell, 'code-(fold|summary):.*')])

@every_notebook
def test_at_most_two_values_an_assignment(stem):
    found = [(cell, node) for cell in code_cells(NOTEBOOKS[stem]) for node in crowded(parse(cell))]
    none([f'{at(stem, cell)}: {ast.unparse(node)}' for cell,node in found])

@cache
def statements():
    "Each statement at the top of an exported cell: (notebook, cell, statement)."
    cells = [(stem, cell) for stem,nb in NOTEBOOKS.items() for cell in code_cells(nb)]
    return [(stem, cell, node) for stem,cell in cells if says(cell, 'exports?|exporti') for node in parse(cell).body]

def exported(kind): return [found for found in statements() if isinstance(found[2], kind)]

def test_exported_class_stands_in_one_cell():
    found = {}
    for stem,cell,node in exported(ast.ClassDef): found.setdefault(node.name, []).append(at(stem, cell))
    none([f'{name}: {cells}' for name,cells in found.items() if len(cells)>1])

def test_only_later_lessons_patch_and_only_the_runner():
    home = next(stem for stem,_,node in exported(ast.ClassDef) if node.name=='Runner')
    wrong = []
    for stem,cell,node in exported(ast.FunctionDef):
        if not any('patch' in ast.unparse(decorator) for decorator in node.decorator_list): continue
        cls = ast.unparse(node.args.args[0].annotation)
        if cls!='Runner' or stem==home: wrong.append(f'{at(stem, cell)}: {cls}.{node.name}')
    none(wrong)

def test_no_class_is_changed_from_outside():
    classes = {node.name for _,_,node in exported(ast.ClassDef)}
    targets = [(stem, cell, target) for stem,cell,node in exported(ast.Assign)
               for part in node.targets for target in getattr(part, 'elts', [part])]
    none([f'{at(stem, cell)}: {ast.unparse(target)}' for stem,cell,target in targets
          if isinstance(target, ast.Attribute) and ast.unparse(target.value) in classes])

def names(module):
    "What `from module import *` imports."
    module = importlib.import_module(module)
    return getattr(module, '__all__', None) or [name for name in vars(module) if not name.startswith('_')]

def adds(module):
    "The methods that importing a module adds to `Runner`."
    return {name for name,f in vars(lesson9.callbacks.Runner).items() if getattr(f, '__module__', None)==module}

def test_names_behind_import_star(tmp_path):
    "With names in place of `*`, ruff finds those that nothing defines, and the modules of which nothing is used."
    imported = set()
    for stem,nb in NOTEBOOKS.items():
        nb = nbformat.from_dict(nb)
        code = '\n'.join(cell.source for cell in code_cells(nb))
        for cell in code_cells(nb):
            modules = STAR.findall(cell.source) if stem!='index' else [] # index imports for lesson9.all
            imported |= {(stem, f'{module}.{name}') for module in modules for name in names(module)
                         if not any(f'.{method}(' in code for method in adds(module))}
            cell.source = STAR.sub(lambda star: f"from {star[1]} import {', '.join(names(star[1]))}", cell.source)
        nbformat.write(nb, tmp_path/f'{stem}.ipynb')

    options = '--isolated --no-cache --select F401,F821 --output-format json'.split()
    ruff = subprocess.run([sys.executable, '-m', 'ruff', 'check', *options, tmp_path], capture_output=True, text=True)
    found = [(Path(error['filename']).stem, error['message'], error) for error in json.loads(ruff.stdout)]
    none([f"{stem}, code cell {error['cell']}: {said}" for stem,said,error in found if error['code']=='F821'])

    unused = {(stem, said.split('`')[1]) for stem,said,error in found if error['code']=='F401'}
    def homes(pairs): return {f"{stem}: nothing of {name.rpartition('.')[0]} is used" for stem,name in pairs}
    none(homes(imported) - homes(imported - unused))
