"""Run the cells of notebooks where there is no Jupyter, those marked `#| cuda` included.

    python bench/cells.py OUT [nbs/11_gpu.ipynb ...]             writes OUT/cells.json; default: all notebooks but
                                                                 those that need Jupyter and nbdev
    python bench/cells.py OUT --only cuda                        those with a `cuda` cell; `--only rest`: the others
    python bench/cells.py OUT --seconds 60                       in that time; what didn't begin is left out
    python bench/cells.py OUT --device cpu nbs/11_gpu.ipynb      tries it without a GPU: the processor stands in for it
    python bench/cells.py OUT --save                             puts the outputs of the `cuda` cells into the notebooks

Each notebook has a process of its own, and goes on after a cell that fails. The file is written after each notebook;
what it has of others stays. IPython and nbdev needn't be there: what
the cells use of them is replaced."""
import argparse, ast, contextlib, io, json, linecache, os, re, signal, subprocess, sys, time, traceback, types
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
FLAG = re.compile(r'^\s*#\s*\|\s*(\w+)\s*$', re.MULTILINE)

class Shown:
    "Stands in for IPython's Markdown and HTML."
    def __init__(self, data): self.data = data

class Captured:
    "Stands in for IPython's `capture_output`."
    def __init__(self, *args, **kwargs):
        self.texts,self.outputs = [io.StringIO(), io.StringIO()],[]

    def __enter__(self):
        self.stack = contextlib.ExitStack()
        for redirect,text in zip((contextlib.redirect_stdout, contextlib.redirect_stderr), self.texts):
            self.stack.enter_context(redirect(text))
        return self

    def __exit__(self, *error): return self.stack.__exit__(*error)
    stdout = property(lambda self: self.texts[0].getvalue())
    stderr = property(lambda self: self.texts[1].getvalue())

def stand_ins():
    "Put modules into `sys.modules` that have what the cells use of IPython and nbdev."
    def nothing(*args, **kwargs): pass
    modules = {'IPython.display': dict(Markdown=Shown, HTML=Shown, display=print, clear_output=nothing),
               'IPython.utils.capture': dict(capture_output=Captured),
               'IPython': dict(version_info=(9, 0), get_ipython=nothing), # matplotlib asks for them
               'nbdev.showdoc': dict(show_doc=nothing), 'nbdev': dict(nbdev_export=nothing)}
    for name,has in modules.items():
        for parent in (name.rsplit('.', i)[0] for i in range(name.count('.'), -1, -1)):
            sys.modules.setdefault(parent, types.ModuleType(parent))
        vars(sys.modules[name]).update(has)

def as_if_on_gpu(source):
    "Have a cell for a GPU use the processor."
    for gpu,cpu in (("'cuda'", "'cpu'"), ('.cuda()', '.cpu()'), ('CudaGraph()', 'CudaGraph(capture=GraphCapture)'),
                    ('Compile()', "Compile(backend='eager')")): source = source.replace(gpu, cpu)
    return source

def cuda_stand_ins():
    "Functions of `torch.cuda` that do nothing, for a try without a GPU."
    import torch
    nothing = {name: lambda *args: 0 for name in ('synchronize', 'memory_allocated', 'set_sync_debug_mode',
                                                  'get_device_name', 'reset_peak_memory_stats', 'max_memory_allocated')}
    return mock.patch.multiple(torch.cuda, **nothing)

def run_cell(source, names):
    "Execute a cell; return its outputs as a notebook stores them."
    lines = ['\n' if line.startswith(('%', '!')) else line for line in (source+'\n').splitlines(keepends=True)]
    tree,value = ast.parse(''.join(lines)),None
    cell = f'<cell {len(linecache.cache)}>'
    linecache.cache[cell] = len(source),None,lines,cell # for inspect.getsource
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed,missing = io.StringIO(),None
    with contextlib.redirect_stdout(printed):
        for node in tree.body:
            try: exec(compile(ast.Module([node], []), cell, 'exec'), names)
            except ModuleNotFoundError as e: # only what uses it fails, not all that comes after these imports
                if not isinstance(node, (ast.Import, ast.ImportFrom)): raise
                missing = missing or e
        if missing: raise missing
        if last and not source.rstrip().endswith(';'):
            value = eval(compile(ast.Expression(last.value), cell, 'eval'), names)
        elif last: exec(compile(ast.Module([last], []), cell, 'exec'), names)

    text,outputs = printed.getvalue(),[]
    if text: outputs.append(dict(output_type='stream', name='stdout', text=text))
    if value is not None:
        data = {'text/plain': repr(value)}
        if hasattr(value, '_repr_html_'): data['text/html'] = value._repr_html_()
        outputs.append(dict(output_type='execute_result', execution_count=None, metadata={}, data=data))
    return outputs

def run_notebook(path, device):
    "Run a notebook's cells in this process; after each, yield what they have put out, and what failed."
    import matplotlib
    matplotlib.use('agg')
    stand_ins()
    import matplotlib.pyplot as plt
    main = sys.modules['__main__'] = types.ModuleType('__main__') # pickle and torch.compile look there
    names = vars(main)
    names['display'] = print
    found = dict(outputs={}, failed={}, seconds={})
    os.chdir(path.parent)
    for cell in json.loads(path.read_text())['cells']:
        source = ''.join(cell['source'])
        flags = set(FLAG.findall(source))
        if cell['cell_type']!='code' or flags & {'slow', 'notest'}: continue
        start = time.perf_counter()
        on_gpu = 'cuda' in flags
        try:
            with cuda_stand_ins() if on_gpu and device=='cpu' else contextlib.nullcontext():
                outputs = run_cell(as_if_on_gpu(source) if on_gpu and device=='cpu' else source, names)
            if on_gpu: found['outputs'][cell['id']] = outputs
        except ModuleNotFoundError as e: found['failed'][cell['id']] = str(e)
        except BaseException:
            found['failed'][cell['id']] = traceback.format_exc(limit=-6) + '\nin the cell\n' + source[:400]
        plt.close('all') # as Jupyter does
        found['seconds'][cell['id']] = time.perf_counter()-start
        yield found

def end(process):
    "End a process and those that it has started; return its output."
    os.killpg(process.pid, signal.SIGTERM) # torchrun ends its own
    try: return process.communicate(timeout=5)[0]
    except subprocess.TimeoutExpired as e:
        os.killpg(process.pid, signal.SIGKILL)
        return e.stdout or b''

def run_alone(path, device, limit):
    "Run a notebook in a process of its own. At the limit, what its cells have put out so far is kept."
    path_there = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    env = os.environ | {'IN_TEST': '1', 'OMP_NUM_THREADS': '1', 'PYTHONPATH': path_there}
    command = [sys.executable, __file__, '-', '--one', path, '--device', device]
    pipe,problem = subprocess.PIPE,None
    with subprocess.Popen(command, env=env, stdout=pipe, stderr=pipe, start_new_session=True) as process:
        try:
            lines,errors = process.communicate(timeout=limit)
            if process.returncode: problem = errors[-3000:].decode(errors='replace')
        except subprocess.TimeoutExpired:
            lines,problem = end(process),f'cut off after {limit:.0f} s'

    found = dict(outputs={}, failed={}, seconds={})
    for line in lines.split(b'\n')[:-1]: found = json.loads(line) # whole lines; the last has all
    if problem: found['failed']['all'] = problem
    return found

def save(found):
    "Put outputs into the notebooks they come from."
    for name,result in found.items():
        path = ROOT/'nbs'/name
        nb = json.loads(path.read_text())
        for cell in nb['cells']:
            outputs = result['outputs'].get(cell['id'])
            if outputs is None: continue
            for output in outputs: # lines, as Jupyter stores them
                if 'text' in output: output['text'] = output['text'].splitlines(keepends=True)
                for kind,text in output.get('data', {}).items(): output['data'][kind] = text.splitlines(keepends=True)
            cell['outputs'] = outputs
        path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True)+'\n')

def find_notebooks(only):
    "Paths of the notebooks that need neither Jupyter nor nbdev: all, those with a `cuda` cell, or the rest."
    paths = [p for p in sorted((ROOT/'nbs').glob('*.ipynb')) if not re.search('jupyter|reference', p.name)]
    def has_cuda(path):
        cells = json.loads(path.read_text())['cells']
        return any('cuda' in FLAG.findall(''.join(cell['source'])) for cell in cells if cell['cell_type']=='code')
    return [p for p in paths if not only or has_cuda(p)==(only=='cuda')]

def run_all(paths, args):
    "Run notebooks side by side; yield the path and what was found as each ends."
    end = time.monotonic()+args.seconds
    def run(path):
        left = end-time.monotonic()
        if left<5: return dict(outputs={}, failed={'all': 'left out: no time'}, seconds={})
        return run_alone(path, args.device, min(args.limit, left))
    with ThreadPoolExecutor(args.workers) as pool:
        running = {pool.submit(run, path): path for path in paths}
        for done in as_completed(running): yield running[done],done.result()

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path)
    parser.add_argument('notebooks', type=Path, nargs='*')
    parser.add_argument('--only', choices=['cuda', 'rest'])
    parser.add_argument('--device', default='cuda', choices=['cuda', 'cpu'])
    parser.add_argument('--workers', type=int, default=os.cpu_count())
    parser.add_argument('--limit', type=float, default=300, help='seconds for a notebook')
    parser.add_argument('--seconds', type=float, default=3600, help='for all of them')
    parser.add_argument('--one', type=Path, help=argparse.SUPPRESS)
    parser.add_argument('--save', action='store_true')
    args = parser.parse_intermixed_args()
    if args.one:
        report = sys.stdout
        signal.signal(signal.SIGINT, signal.default_int_handler) # a shell's background job would ignore it
        with contextlib.redirect_stdout(sys.stderr):
            for found in run_notebook(args.one.resolve(), args.device):
                print(json.dumps(found), file=report, flush=True)
        return
    stored = args.out/'cells.json'
    if args.save: return save(json.loads(stored.read_text()))

    args.out.mkdir(parents=True, exist_ok=True)
    found,failed = json.loads(stored.read_text()) if stored.exists() else {},False
    for path,r in run_all(args.notebooks or find_notebooks(args.only), args):
        found[path.name] = r
        stored.write_text(json.dumps(found, indent=1, sort_keys=True))
        cells,on_device,seconds = len(r['seconds']),len(r['outputs']),sum(r['seconds'].values())
        print(f'{path.name}: {cells} cells, {on_device} on {args.device}, {seconds:.0f} s', flush=True)
        for cell,trace in r['failed'].items(): print(f'  FAILED {cell}\n{trace}', flush=True)
        failed |= bool(r['failed'])
    sys.exit(failed)

if __name__=='__main__': main()
