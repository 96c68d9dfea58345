"""Find what the notebooks' cells don't test: `python tools/mutants.py [callbacks nbs/17_steps.ipynb ...] [--limit 50]`

Changes the exported cells of each notebook, one place at a time: `<` to `<=`, a call left out, and so on. A mutant runs
in a process of its own, forked when the cells before the change have run. It is killed when a cell fails, or when it
needs over three times what the whole notebook needs; else it survives. tools/mutants.txt says which may, and why.
Exits with 1 if there are others."""
import argparse, ast, contextlib, io, json, os, random, re, resource, signal, sys, tempfile, time, types
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT/'bench'))
from cells import FLAG, run_cell, stand_ins # noqa: E402

MODULES = 'callbacks', 'averages', 'minibatch', 'anneal', 'steps'
PAIRS = [('<', '<='), ('>', '>='), ('==', '!='), ('in', 'not in'), ('is', 'is not'), ('and', 'or'), ('+', '-'),
         ('*', '/'), ('//', '%'), ('|', '&'), ('+=', '-='), ('*=', '/=')]
SWAPS = dict(PAIRS) | {b: a for a,b in PAIRS}
NEGATED = ast.Not, ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot # to change these is to negate a condition

def inside(node):
    "Yield a node and all within it but annotations, errors, f-strings, and what only type checkers read."
    if isinstance(node, ast.If) and ast.unparse(node.test)=='TYPE_CHECKING': return
    yield node
    if isinstance(node, (ast.Raise, ast.JoinedStr)): return
    left_out = getattr(node, 'annotation', None), getattr(node, 'returns', None)
    for child in ast.iter_child_nodes(node):
        if child not in left_out: yield from inside(child)

def edits(source):
    "Yield what can be changed in a cell, as (start, end, new text)."
    lines = source.splitlines(keepends=True)
    def place(line, col): return len(''.join(lines[:line-1])) + len(lines[line-1].encode()[:col].decode())
    def start(node): return place(node.lineno, node.col_offset)
    def end(node): return place(node.end_lineno, node.end_col_offset)
    def put(node, new): return start(node), end(node), new
    def swap(left, right):
        op = re.compile(r'(?:[\s()]|#.*)*(not in|is not|[^\s()]+)').match(source, end(left), start(right))
        return *op.span(1), SWAPS.get(op[1], op[1])
    def is_set(node): return isinstance(node, (ast.Attribute, ast.Subscript)) and isinstance(node.ctx, ast.Store)

    nodes = list(inside(ast.parse(source)))
    statements = [node.value for node in nodes if isinstance(node, ast.Expr)]
    for node in nodes:
        match node:
            case ast.BinOp(left, _, right) | ast.AugAssign(left, _, right): yield swap(left, right)
            case ast.BoolOp(_, values): yield from map(swap, values, values[1:])
            case ast.Compare(left, _, others): yield from map(swap, [left, *others], others)
            case ast.UnaryOp(op): yield start(node), start(node) + (3 if isinstance(op, ast.Not) else 1), ''
            case ast.Constant(bool(value)): yield put(node, str(not value))
            case ast.Constant(int(value) | float(value)): yield put(node, repr(value+1))
            case ast.Slice(): yield from (put(bound, '') for bound in (node.lower, node.upper) if bound)
            case ast.arguments():
                for value in filter(None, node.defaults + node.kw_defaults):
                    yield put(value, '0' if ast.unparse(value)=='None' else 'None')
            case ast.Call(ast.Attribute(attr=name), [], []) if node not in statements: # such as `.detach()`
                yield end(node.func)-len(name)-1, end(node), ''
            case ast.keyword(): yield start(node), re.compile(r'(\s*,\s*)?').match(source, end(node)).end(), ''
            case ast.Raise() | ast.Expr(ast.Call()): yield put(node, 'pass')
            case ast.Return(ast.expr()): yield put(node, 'return None')
            case ast.Try(finalbody=[first, *_]): yield start(first), end(node), 'pass'
            case ast.With([ast.withitem(context, None)]): yield start(node), end(context), 'if True'
            case ast.ClassDef(): yield from (put(part, 'pass') for part in node.body if isinstance(part, ast.Assign))
        if isinstance(node, (ast.Assign, ast.AugAssign)) and any(map(is_set, ast.walk(node))): yield put(node, 'pass')
        yield from ((start(decorator)-1, end(decorator), '') for decorator in getattr(node, 'decorator_list', []))
        for test in [getattr(node, 'test', None), *getattr(node, 'ifs', [])]:
            op = getattr(test, 'op', None) or getattr(test, 'ops', [None])[0]
            if test and not isinstance(op, NEGATED): yield put(test, f'not ({source[start(test):end(test)]})')

def find_mutants(source):
    "Yield the mutants of a cell, each once: (source, line, lines before and after)."
    seen = {ast.dump(ast.parse(source))}
    for start,end,new in sorted(edits(source)):
        mutant = source[:start] + new + source[end:]
        with contextlib.suppress(SyntaxError): # such as `f(a for a in b, )`, when a keyword was left out
            tree = ast.dump(ast.parse(mutant))
            if tree in seen: continue
            seen.add(tree)
            first,rest = source.rfind('\n', 0, start)+1,len(source[end:].partition('\n')[2])
            texts = [re.sub(r'(\s|^)#.*', '', text[first:len(text)-rest], flags=re.M) for text in (source, mutant)]
            yield mutant, source.count('\n', 0, start)+1, ' -> '.join(' '.join(text.split()) for text in texts)

def run_forked(sources, names, limit=0):
    "Run cells in a process of its own, up to the first that fails, for `limit` seconds; return how it ended."
    pid = os.fork()
    if not pid:
        try:
            os.setpgid(0, 0)
            for fd in range(3): os.dup2(os.open(os.devnull, os.O_RDWR), fd)
            resource.setrlimit(resource.RLIMIT_DATA, (2**33, 2**33)) # an endless loop may fill the memory, too
            signal.setitimer(signal.ITIMER_PROF, limit) # ends the process; a busy machine doesn't bring that nearer
            signal.setitimer(signal.ITIMER_REAL, 20*limit) # for one that waits for ever
            for source in sources: run_cell(source, names)
            os._exit(0)
        finally: os._exit(1)
    try: _,status = os.waitpid(pid, 0)
    finally: # what the cells started ends, too, also after Ctrl-C
        with contextlib.suppress(ProcessLookupError): os.killpg(pid, signal.SIGKILL)
    if os.WTERMSIG(status) in (signal.SIGPROF, signal.SIGALRM): return 'timeout'
    return 'killed' if status else 'survivor'

def run_notebook(path, limit, seed, verbose, only):
    "Return (how it ended, '' if left out; where; its change) of each mutant of a notebook, and their seconds."
    os.environ.update(IN_TEST='1', OMP_NUM_THREADS='1', MPLBACKEND='agg', CUDA_VISIBLE_DEVICES='')
    stand_ins()
    sys.modules['__main__'] = types.ModuleType('__main__') # pickle looks there
    names = vars(sys.modules['__main__'])
    names['display'] = print
    os.chdir(path.parent)
    cells = [(c['id'], ''.join(c['source'])) for c in json.loads(path.read_text())['cells'] if c['cell_type']=='code']
    cells = [(cell, source) for cell,source in cells if not {'slow', 'cuda', 'notest'} & set(FLAG.findall(source))]
    mutants = [(cell, *mutant) for cell,source in cells if {'export', 'exports'} & set(FLAG.findall(source))
               for mutant in find_mutants(source)]
    asked = [mutant for mutant in mutants if not only or any(text in mutant[-1] for text in only)]
    chosen = random.Random(seed).sample(asked, min(limit, len(asked)))
    sources,results = [source for _,source in cells],[]
    with tempfile.TemporaryDirectory() as tempfile.tempdir, contextlib.redirect_stderr(io.StringIO()):
        if run_forked(sources, names)!='survivor': raise RuntimeError(f'{path.name} fails as it is')
        used,start = resource.getrusage(resource.RUSAGE_CHILDREN),time.monotonic()
        longest = 3*(used.ru_utime+used.ru_stime) + 1
        for i,(cell, source) in enumerate(cells):
            for mutant in [mutant for mutant in mutants if mutant[0]==cell]:
                _,changed,line,change = mutant
                ended = run_forked([changed, *sources[i+1:]], names, longest) if mutant in chosen else ''
                results.append((ended, f'{path.name} {cell}:{line}', change))
                if verbose and ended: print(*results[-1], sep='  ', flush=True)
            run_cell(source, names)
    return results, time.monotonic()-start

def notebook_of(module):
    "The notebook that a module comes from."
    if module.endswith('.ipynb'): return Path(module).resolve()
    return ROOT/'nbs'/re.search(r'File to edit: .*?(\w+\.ipynb)', (ROOT/'lesson9'/f'{module}.py').read_text())[1]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('modules', nargs='*', default=MODULES, help='modules of lesson9, or paths of notebooks')
    parser.add_argument('--limit', type=int, default=10**6, help='run a sample of so many mutants of each notebook')
    parser.add_argument('--seed', type=int, default=0, help='which sample')
    parser.add_argument('--only', nargs='+', help='run mutants whose lines contain one of these texts')
    parser.add_argument('--jobs', type=int, default=1, help='notebooks at the same time')
    parser.add_argument('--verbose', action='store_true', help='print each mutant when it has ended')
    parser.add_argument('--explained', type=Path, default=Path(__file__).with_suffix('.txt'))
    args = parser.parse_args()
    lines = [line for line in args.explained.read_text().splitlines() if line and line[0]!='#']
    explained = [line.rpartition(' | ')[0].split(' | ', 1) for line in lines]
    with ProcessPoolExecutor(args.jobs, get_context('spawn'), max_tasks_per_child=1) as pool:
        options = args.limit, args.seed, args.verbose, args.only
        runs = [pool.submit(run_notebook, notebook_of(module), *options) for module in args.modules]

    survived,stale = [],[]
    row = '{:16}{:>9}{:>9}{:>9}{:>10}{:>10}{:>9}'.format
    print(row('module', 'mutants', 'killed', 'timeouts', 'explained', 'survivors', 'seconds'))
    for module,run in zip(args.modules, runs):
        (results, seconds),name = run.result(),Path(module).stem
        why = {change for where,change in explained if where==name}
        ended = Counter('explained' if how=='survivor' and change in why else how for how,_,change in results)
        counts = [ended[how] for how in ('killed', 'timeout', 'explained', 'survivor')]
        print(row(name, sum(counts), *counts, round(seconds)))
        for how,where,change in results:
            if how=='survivor' and change not in why:
                survived.append('\n    '.join([f'\nsurvivor: {where}', *change.split(' -> ')]))
        alive = {change for how,_,change in results if how in ('', 'survivor')}
        stale += [f'\nno such survivor: {name} | {change}' for change in sorted(why-alive)]
    print(*survived, *stale, sep='\n')
    sys.exit(bool(survived))

if __name__=='__main__': main()
