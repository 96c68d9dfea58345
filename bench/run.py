"""Overhead of training loops on a CPU: every contender against the loop written by hand, over and over, taking turns.

    python bench/run.py                       all workloads, 9 rounds; writes bench/results/cpu.json
    python bench/run.py --workloads mlp16-bs64 --contenders lesson9 ignite --rounds 3 --out /tmp/try.json

A contender has a process of its own. In each turn it's timed back to back with the loop written by hand, in the same
process; which of the two goes first alternates. A contender that can't be run is reported with its reason."""
import argparse, json, os, platform, subprocess, sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median

here = Path(__file__).parent
sys.path.insert(0, str(here))
os.environ |= {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(here.parent)}

import contenders, loops

packages = 'torch numpy fastcore tqdm fastai lightning pytorch-ignite skorch accelerate'.split()

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
    "A contender's process. If it couldn't start, `failed` says why."
    def __init__(self, name, workload, n):
        self.name,self.turns = name,[]
        command,pipe = [sys.executable, here/'worker.py', 'time', name, workload, str(n)],subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        first = self.process.stdout.readline()
        self.failed = None if first else self.process.stderr.read().strip().splitlines()[-1]
        if first: self.facts = json.loads(first)

    def turn(self, contender_first):
        print('contender first' if contender_first else 'baseline first', file=self.process.stdin, flush=True)
        self.turns.append(json.loads(self.process.stdout.readline()))

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def result(self):
        "List each turn's overhead in microseconds a step, ratio and seconds."
        if self.failed: return dict(failed=self.failed)
        steps = self.facts['steps']
        return dict(self.facts, against=contenders.against.get(self.name, 'hand'),
                    overhead_us=[(t['seconds']-t['baseline'])/steps*1e6 for t in self.turns],
                    ratio=[t['seconds']/t['baseline'] for t in self.turns],
                    seconds=[t['seconds'] for t in self.turns], baseline_seconds=[t['baseline'] for t in self.turns])

def race(workload, names, rounds, n):
    "Time all contenders on one workload."
    workers = [Worker(name, workload, n) for name in names]
    for i in range(rounds):
        for w in workers:
            if not w.failed: w.turn(contender_first=i%2==0)
    for w in workers: w.close()
    return {w.name: w.result() for w in workers}

def memory(name, workload, n, repeats):
    "Measure peak memory in MiB of a process that trains one epoch, and what training added, `repeats` times."
    cmd = [sys.executable, here/'worker.py', 'memory', name, workload, str(n)]
    found = [json.loads(subprocess.run(cmd, capture_output=True, text=True, check=True).stdout) for _ in range(repeats)]
    return {key: [r[key] for r in found] for key in found[0]}

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
    parser.add_argument('--workloads', nargs='+', default=loops.names)
    everyone = [*contenders.ours, *(p+s for p in contenders.peers for s in ('', '_stats'))]
    parser.add_argument('--contenders', nargs='+', default=everyone)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--images', type=int, default=50_000)
    parser.add_argument('--out', type=Path, default=here/'results'/'cpu.json')
    args = parser.parse_args()

    out = dict(machine=machine(), rounds=args.rounds, images=args.images, workloads={}, memory={})
    for workload in args.workloads:
        out['workloads'][workload] = race(workload, args.contenders, args.rounds, args.images)
        show(workload, out['workloads'][workload])
    for name in [n for n in args.contenders if n in ('hand', 'hand_stats', 'lesson9', 'lesson9_stats')]:
        out['memory'][name] = memory(name, args.workloads[0], args.images, min(5, args.rounds))
    for name,r in out['memory'].items():
        peak,added = median(r['peak_mib']),median(r['added_mib'])
        print(f'{name:14} peak memory {peak:.1f} MiB, of which training added {added:.1f}')
    args.out.write_text(json.dumps(out, indent=1)+'\n')
    print(f'written: {args.out}')

if __name__=='__main__': main()
