"""Run the cells of all notebooks and the tests in tests/ at the same time: `python tools/run_tests.py [--flags slow]`

Options go to nbdev_test. Notebooks give way to the tests, which run one after the other: two notebooks at a time fill
what two cores have left, up to the end. What a part prints comes when it has ended, and what failed comes last. Writes
into .test-times how many seconds each part took."""
import re, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

ROOT = Path(__file__).resolve().parent.parent
# tests/test_recipes.py runs the page of recipes, with warnings as errors
SKIP = ['--skip_file_re', '^[_.]|_recipes']
NOTEBOOKS = [('notebooks', ['nice', 'nbdev_test', '--n_workers', '2', '--do_print', *SKIP])]
TESTS = [('site', ['make', '--no-print-directory', 'site', 'EXPORT=:']), # `make test` has exported the library
         ('tests', [sys.executable, '-m', 'pytest', '-q', '-rfEs', 'tests'])]
FAILED = re.compile(r'^(?:FAILED|ERROR) .*|^\t.*\.ipynb$', re.M) # as pytest and nbdev_test name them at their end

times,failed,printing = {},[],Lock()

def run(parts):
    "Run some parts one after the other, up to the first that fails."
    for name,command in parts:
        start = time.monotonic()
        with tempfile.TemporaryFile('w+', encoding='utf-8') as output:
            status = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False).returncode
            output.seek(0)
            text = output.read()
        times[name] = time.monotonic()-start
        with printing: print(f'\n== {name}\n{text}', flush=True)
        if status:
            failed.extend(FAILED.findall(text) or [f'{name}: exit status {status}'])
            return

def main():
    start = time.monotonic()
    NOTEBOOKS[0][1].extend(sys.argv[1:])
    with ThreadPoolExecutor(2) as pool: list(pool.map(run, [NOTEBOOKS, TESTS]))
    times['make test-all' if '--flags' in sys.argv else 'make test'] = time.monotonic()-start

    lines = [f'{seconds:.0f} {name}' for name,seconds in times.items()]
    (ROOT/'.test-times').write_text('\n'.join(lines) + '\n')
    print('\n== seconds', *lines, sep='\n')
    if failed: print('\n== failed', *(line.strip() for line in failed), sep='\n')
    sys.exit(bool(failed))

if __name__ == '__main__': main()
