"tools/mutants.py finds what the cells of a notebook don't test, in a made-up notebook."
import subprocess, sys

import nbformat
import pytest
from mutants import __file__ as tool
from mutants import find_mutants

CELLS = '''#| exports
def larger(a, b):
    "Return `a` if a>b."
    return a if a>b else b
---
#| exports
def countdown(n):
    found = []
    while n>0:
        found.append(n)
        n -= 1
    return found'''
STRONG = "assert larger(2, 1)==larger(1, 2)==2 and countdown(3)==[3, 2, 1]"
WEAK   = "assert larger(2, 1) and countdown(3)"
EQUAL  = 'return a if a>b else b -> return a if a>=b else b' # no test can see that

@pytest.fixture
def run(tmp_path):
    def run(test, explained='', *options):
        nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in [*CELLS.split('---\n'), test]])
        for i,cell in enumerate(nb.cells): cell['id'] = f'cell{i}'
        nbformat.write(nb, tmp_path/'small.ipynb')
        (tmp_path/'why.txt').write_text(explained)
        command = [sys.executable, tool, tmp_path/'small.ipynb', '--explained', tmp_path/'why.txt', *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert not done.stderr, done.stderr
        head,row = done.stdout.splitlines()[:2]
        return done.returncode, dict(zip(head.split(), row.split())), done.stdout
    return run

def test_failing_notebook(tmp_path):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('1/0')]), tmp_path/'bad.ipynb')
    done = subprocess.run([sys.executable, tool, tmp_path/'bad.ipynb'], capture_output=True, text=True)
    assert done.returncode==1 and 'bad.ipynb fails as it is' in done.stderr, done.stderr

def changes(source): return [change for _,_,change in find_mutants(source)]

def test_strong_tests_leave_what_is_equal(run):
    status,row,said = run(STRONG, f'# comment\n\nsmall | {EQUAL} | the same number\nother | a -> b | not run\n')
    assert (status, row['survivors'], row['explained'], row['timeouts'])==(0, '0', '1', '1'), said # one for `n += 1`
    assert row['mutants']==str(1+1+int(row['killed'])) and 'no such' not in said, said

def test_weak_tests_leave_more(run):
    status,row,said = run(WEAK, 'small | n -= 1 -> n += 1 | ends never\nsmall | a -> b | gone\n')
    assert (status, row['explained'])==(1, '0') and int(row['survivors'])>2, said
    for changed in 'return a if a>=b else b', 'return a if not (a>b) else b':
        assert f'survivor: small.ipynb cell0:4\n    return a if a>b else b\n    {changed}\n' in said
    for stale in 'a -> b', 'n -= 1 -> n += 1': assert f'no such survivor: small | {stale}\n' in said

def test_sample(run):
    "An explanation of what wasn't tried isn't stale."
    _,row,said = run(STRONG, f'small | {EQUAL} | the same number', '--limit', '2')
    assert (row['mutants'], row['explained'])==('2', '0') and 'no such' not in said, said

@pytest.mark.parametrize('source, expected', [
    ('x = not a<=b+1', ['a<=b+1', 'not a<b+1', 'not a<=b-1', 'not a<=b+2']),
    ('x = a not in b and c is d', ['a in b and c is d', 'a not in b or c is d', 'a not in b and c is not d']),
    ('x = a.clone()[1:n]', ['a[1:n]', 'a.clone()[:n]', 'a.clone()[2:n]', 'a.clone()[1:]']),
    ('x = f(a, k=b, **c)', ['f(a, **c)', 'f(a, k=b, )']),
    ("x = 'é'+f(True)", ["'é'-f(True)", "'é'+f(False)"]),
])
def test_expressions(source, expected):
    assert [change.split(' -> ')[1] for change in changes(source)]==[f'x = {new}' for new in expected]

def test_only_changed_lines_are_shown(): assert changes('x = (a # why\n     or b)')==['or b) -> and b)']

def test_statements():
    source = """\
@no_grad()
def f(x:int=None):
    "Return 1."
    if x: raise ValueError(f'1+{x+1}')
    try: self.a,b = g(x),1
    finally: h()
    with no_grad(): a = x
"""
    assert changes(source)==[
        '@no_grad() -> ', 'def f(x:int=None): -> def f(x:int=0):',
        "if x: raise ValueError(f'1+{x+1}') -> if not (x): raise ValueError(f'1+{x+1}')",
        "if x: raise ValueError(f'1+{x+1}') -> if x: pass",
        'try: self.a,b = g(x),1 -> try: pass', 'try: self.a,b = g(x),1 -> try: self.a,b = g(x),2',
        'finally: h() -> finally: pass', 'with no_grad(): a = x -> if True: a = x']
