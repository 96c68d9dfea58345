"""Run the notebooks and the tests side by side: `python tools/run_tests.py [--slow]`

The output of each is shown in one piece when it is done; the last lines name what failed. How long each part took is
written to `.test-times`, which `make measure` reads."""
import re, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN  = Path(sys.executable).parent

def commands(slow):
    "What to run: {name: command}. Two notebooks at a time, each with one thread; pytest takes what they leave."
    notebooks = [BIN/'nbdev_test', '--n_workers', '2', '--do_print', *(['--flags', 'slow'] if slow else [])]
    return {'notebooks': notebooks, 'tests': [sys.executable, '-m', 'pytest', '-q', '-rs', 'tests']}

def run(command):
    "Run a command; return its exit status, its output, and how long it took in seconds."
    start = time.perf_counter()
    done  = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode,done.stdout,time.perf_counter()-start

def failures(output):
    "The lines that name a notebook or a test that failed."
    named = re.findall(r'^(?:FAILED|ERROR) \S+', output, re.M)
    listed = re.search(r'Failed On The Following Notebooks:\s*=*\s*(.*)', output, re.S)
    return named + (re.findall(r'\S+\.ipynb', listed[1]) if listed else [])

def main(slow):
    start,results = time.perf_counter(),{}
    with ThreadPoolExecutor() as pool:
        futures = {name: pool.submit(run, command) for name,command in commands(slow).items()}
        for name,future in futures.items(): results[name] = future.result()

    for name,(_,output,_) in results.items(): print(f'== {name}', output, sep='\n')
    times = {name: seconds for name,(_,_,seconds) in results.items()} | {'make test': time.perf_counter()-start}
    if not slow: (ROOT/'.test-times').write_text(''.join(f'{seconds:.0f} {name}\n' for name,seconds in times.items()))
    for name,seconds in times.items(): print(f'{seconds:6.0f} s  {name}')

    failed = {name: failures(output) or ['see above'] for name,(status,output,_) in results.items() if status}
    for name,found in failed.items(): print(f'FAILED, {name}:', *found)
    return 1 if failed else 0

if __name__ == '__main__': sys.exit(main('--slow' in sys.argv[1:]))
