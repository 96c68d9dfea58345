"""Run the cells of all notebooks, and the tests in tests/ that need no site: `python tools/run_tests.py [--flags slow]`

Options go to nbdev_test. Both run at the same time. Notebooks give way to the tests, which run one after the other: two
notebooks at a time fill what two cores have left, up to the end. Every twenty seconds a line says what is running. What
a part prints comes when it has ended, and what failed comes last. Writes into .test-times how many seconds each part
took."""
import os, re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent
# tests/test_recipes.py runs the page of recipes, with warnings as errors
SKIP = ['--skip_file_re', '^[_.]|_recipes']
# The tests of the built site are those of `make test-site`
PARTS = {'notebooks': ['nice', 'nbdev_test', '--n_workers', '2', '--do_print', *SKIP],
         'tests':     [sys.executable, '-m', 'pytest', '-q', '-rfEs', '-m', 'not site', 'tests']}
FAILED = re.compile(r'^(?:FAILED|ERROR) .*|^\t.*\.ipynb$', re.M) # as pytest and nbdev_test name them at their end
N_NOTEBOOKS = sum('_recipes' not in path.name for path in ROOT.glob('nbs/*.ipynb'))

times,failed,printing = {},[],Lock()
running = {} # name of a part: where its output goes

def run(name, command, folder):
    "Run a part, and note what failed."
    start = time.monotonic()
    with (folder/name).open('wb') as output:
        running[name] = folder/name
        status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False,
                                env={**os.environ, 'PYTHONUNBUFFERED': '1'}).returncode
    text = running.pop(name).read_text(encoding='utf-8', errors='replace')
    times[name] = time.monotonic()-start
    with printing: print(f'\n== {name}: {times[name]:.0f} s\n{text}', flush=True)
    if status: failed.extend(FAILED.findall(text) or [f'{name}: exit status {status}'])

def progress(name, text):
    "How far a part has come, from what it has printed."
    if name=='notebooks':
        begun,ended = (re.findall(rf'^{word} .*?(\w+)\.ipynb$', text, re.M) for word in ('Starting', '- Completed'))
        now = ' and '.join(sorted({*begun}-{*ended}))
        return f'{len(ended)} of {N_NOTEBOOKS} notebooks' + (f', now {now}' if now else '')
    return f"{['0%', *re.findall(r'([0-9]+%)]', text)][-1]} of the tests"

def main():
    start = time.monotonic()
    PARTS['notebooks'].extend(sys.argv[1:])
    print(f'{N_NOTEBOOKS} notebooks, two at a time; beside them the tests in tests/', flush=True)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:
        parts = [pool.submit(run, name, command, Path(folder)) for name,command in PARTS.items()]
        while wait(parts, timeout=20).not_done:
            told = [progress(name, path.read_text(errors='replace')) for name,path in list(running.items())]
            with printing: print(f"{time.monotonic()-start:5.0f} s  {'; '.join(told)}", flush=True)
        for part in parts: part.result()
    times['make test-all' if '--flags' in sys.argv else 'make test'] = time.monotonic()-start

    lines = [f'{seconds:.0f} {name}' for name,seconds in times.items()]
    (ROOT/'.test-times').write_text('\n'.join(lines) + '\n')
    print('\n== seconds', *lines, sep='\n')
    if failed: print('\n== failed', *(line.strip() for line in failed), sep='\n')
    sys.exit(bool(failed))

if __name__ == '__main__': main()
