"""Overhead of training loops on a CPU: every contender against the loop written by hand, over and over, taking turns.

    python bench/run.py                       all workloads; writes bench/results/cpu.json
    python bench/run.py --workloads mlp16-bs64 --contenders lesson9 ignite --rounds 3 --out /tmp/try.json

A contender has a process of its own. In each turn it's timed back to back with the loop written by hand, in the same
process: one of them, the other twice, the first again; which one begins alternates. An epoch is short, so that there's
time for many turns: the spread is that over the turns. A contender that can't be run is reported with its reason."""
import argparse, json, os, platform, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

here = Path(__file__).parent
sys.path.insert(0, str(here))
os.environ |= {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(here.parent)}

import contenders

packages = 'torch numpy fastcore tqdm fastai lightning pytorch-ignite skorch accelerate'.split()

# Images of each epoch: 64 steps of 64, 10 of 512, and 4 of the network whose steps take long. Then the rounds: most for
# the step that's shortest, of which the loop is the largest part. Many short rounds spread less than few long ones.
plan = {'mlp16-bs64': (4096, 31), 'mlp784-bs512': (5120, 21), 'convnet-bs512': (2048, 5)}

def machine():
    "Describe the machine and the versions that the figures depend on."
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.exists() else []
    named = [line.split(':')[1].strip() for line in lines if line.startswith('model name')]
    cpu = named[0] if named else platform.processor() or platform.machine()
    versions = {'python': platform.python_version()}
    for p in packages:
        try: versions[p] = version(p)
        except PackageNotFoundError: pass
    return dict(cpu=cpu, cores=os.cpu_count(), system=platform.platform(terse=True), threads=1,
                date=date.today().isoformat(), versions=versions)

class Worker:
    "A contender's process. If it ended by itself, `failed` says why."
    def __init__(self, name):
        self.name,self.failed = name,None
        self.errors = tempfile.TemporaryFile('w+') # libraries print a lot, which would fill a pipe
        self.process = subprocess.Popen([sys.executable, here/'worker.py', 'time', name], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=self.errors, text=True)

    def ask(self, *words):
        if self.failed: return
        with suppress(BrokenPipeError): print(*words, file=self.process.stdin, flush=True) # `answer` finds out why

    def answer(self):
        "Wait for the answer; None if there's none."
        if self.failed: return None
        if line := self.process.stdout.readline(): return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        self.failed = (self.errors.read().strip().splitlines() or ['ended without a word'])[-1]

    def close(self):
        with suppress(BrokenPipeError): self.process.stdin.close()
        self.process.wait()

def start(workers, workload, n):
    "Let each train for the first time, two at once: these times aren't kept."
    for i in range(0, len(workers), 2):
        for w in workers[i:i+2]: w.ask('workload', workload, n)
        for w in workers[i:i+2]: w.facts,w.turns = w.answer(),[]

def race(workers, workload, rounds, n):
    "Time all contenders on one workload."
    start(workers, workload, n)
    for i in range(rounds):
        for w in workers:
            w.ask('contender' if i%2==0 else 'baseline', 'first')
            w.turns.append(w.answer())
    return {w.name: result(w) for w in workers}

def result(w):
    "List each turn's overhead in microseconds a step, ratio and seconds."
    if w.failed: return dict(failed=w.failed)
    steps = w.facts['steps']
    return dict(w.facts, against=contenders.against.get(w.name, 'hand'),
                overhead_us=[(t['seconds']-t['baseline'])/steps*1e6 for t in w.turns],
                ratio=[t['seconds']/t['baseline'] for t in w.turns],
                seconds=[t['seconds'] for t in w.turns], baseline_seconds=[t['baseline'] for t in w.turns])

def memory(names, workload, n, repeats):
    "Measure peak memory in MiB of a process that trains one epoch, and what training added, `repeats` times for each."
    def measure(name):
        cmd = [sys.executable, here/'worker.py', 'memory', name, workload, str(n)]
        return json.loads(subprocess.run(cmd, capture_output=True, text=True, check=True).stdout)
    with ThreadPoolExecutor(2) as pool: found = list(pool.map(measure, names*repeats))
    return {name: {key: [r[key] for r in found[i::len(names)]] for key in found[0]} for i,name in enumerate(names)}

def show(workload, results):
    print(f'\n{workload}: overhead in us a step, median (from - to) and best; ratio, median; '
          "weights differ from the hand-written loop's by")
    for name,r in results.items():
        if 'failed' in r: print(f'  {name:20} could not be run: {r["failed"][:120]}'); continue
        o,best = r['overhead_us'],(min(r['seconds'])-min(r['baseline_seconds']))/r['steps']*1e6
        print(f'  {name:20} {median(o):8.1f}  ({min(o):7.1f} - {max(o):7.1f}) {best:8.1f}  '
              f'{median(r["ratio"]):6.3f}   {r["weights_differ"]:.1e}')
    sys.stdout.flush()

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workloads', nargs='+', default=[*plan])
    everyone = [*contenders.ours, *(p+s for p in contenders.peers for s in ('', '_stats', '_fast'))]
    parser.add_argument('--contenders', nargs='+', default=everyone)
    parser.add_argument('--rounds', type=int, help='without it, a number for each workload')
    parser.add_argument('--images', type=int, help='of each epoch; without it, a number for each workload')
    parser.add_argument('--out', type=Path, default=here/'results'/'cpu.json')
    args = parser.parse_args()

    began = time.perf_counter()
    plans = {workload: plan.get(workload, (12_800, 9)) for workload in args.workloads}
    plans = {workload: (args.images or n, args.rounds or rounds) for workload,(n,rounds) in plans.items()}
    out = dict(machine=machine(), workloads={}, memory={})
    out['images'],out['rounds'] = ({workload: p[i] for workload,p in plans.items()} for i in (0, 1))
    workers = [Worker(name) for name in args.contenders]
    for i,(workload,(n,rounds)) in enumerate(plans.items()):
        racing = [w for w in workers if i==0 or not w.name.endswith('_fast')] # one workload is enough for those
        out['workloads'][workload] = race(racing, workload, rounds, n)
        show(workload, out['workloads'][workload])
    for w in workers: w.close()

    names = [n for n in args.contenders if n in ('hand', 'hand_stats', 'lesson9', 'lesson9_stats')]
    if names: out['memory'] = memory(names, args.workloads[0], args.images or 50_000, min(3, args.rounds or 3))
    for name,r in out['memory'].items():
        peak,added = median(r['peak_mib']),median(r['added_mib'])
        print(f'{name:14} peak memory {peak:.1f} MiB, of which training added {added:.1f}')
    out['minutes'] = (time.perf_counter()-began)/60
    args.out.write_text(json.dumps(out, indent=1)+'\n')
    print(f"written: {args.out}, after {out['minutes']:.1f} minutes")

if __name__=='__main__': main()
