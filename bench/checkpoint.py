"""What `Checkpoint` costs: fits with it against the same fits without, and where the time of a save goes.

    python bench/checkpoint.py [--rounds 10] [--out bench/results/checkpoint.json]

Everything runs in one process. The two fits are short and take turns; which goes first alternates. Timed are the
batches, with what is saved after them, and not what a fit does once, at its begin and end. As other processes disturb
such a ratio, it's also computed from its parts: a save, a step, and the check at a step that saves nothing. For a
Checkpoint that saves by time, one save a minute is added to both. TMPDIR puts the files on another file system."""
import argparse, gc, json, os, sys, tempfile, time
from pathlib import Path
from statistics import median, quantiles

os.environ['OMP_NUM_THREADS'] = '1'
import torch
torch.set_num_threads(1)
import torch.nn.functional as F
from torch import nn

here = Path(__file__).parent
sys.path.append(str(here.parent/'tests'))

import loops
from lesson9 import files, folder as checkpoint_folder
from lesson9.averages import AvgStatsCallback
from lesson9.callbacks import Callback, DataBunch, Learner, Runner
from lesson9.checkpoint import Checkpoint
from run import machine
from soak import file_system

# name: hidden units, batch size, batches of a fit, batches between two saves (None: the default, 60 s), how much it
# may cost in %, how many times as many rounds
CASES = {'every 60 s, bs 64':     ([50], 64, 500, None, 1, 10),
         'every 60 s, bs 512':    ([50], 512, 90, None, 1, 10),
         '0.5 MB every 10 steps': ([80], 512, 20, 10, 5, 10),
         '10 MB every 100 steps': ([800, 800], 512, 100, 100, 5, 1)}

def mlp(sizes):
    layers = [layer for ni,nf in zip(sizes, sizes[1:]) for layer in (nn.Linear(ni, nf), nn.ReLU())]
    return nn.Sequential(*layers[:-1])

class Clock(Callback):
    "Time the batches of an epoch."
    order = Checkpoint.order + 1
    def begin_batch(self):
        if self.n_iter==0: self.start = time.perf_counter()
    def after_batch(self): self.end = time.perf_counter()

def fit(work, *cbs):
    "Fit one epoch; return its seconds."
    model,batches = work.model(),work.batches()
    opt = work.opt(model, momentum=0.9)
    gc.collect()
    run = Runner([AvgStatsCallback(log=None), clock := Clock(), *cbs])
    run.fit(1, Learner(model, opt, F.cross_entropy, DataBunch(batches)))
    return clock.end-clock.start

class Timed:
    "In a `with` block, note when a function begins and ends, each time that it's called."
    def __init__(self, owner, name): self.owner,self.name = owner,name
    def __enter__(self):
        self.call,self.times = getattr(self.owner, self.name),[]
        def timed(*args, **kwargs):
            start = time.perf_counter()
            try: return self.call(*args, **kwargs)
            finally: self.times.append((start, time.perf_counter()))
        setattr(self.owner, self.name, timed)
        return self.times
    def __exit__(self, *error): setattr(self.owner, self.name, self.call)

def profile(work, make_cb):
    "Where the milliseconds of each save of a fit go."
    with (Timed(Checkpoint, '_save') as saves, Timed(checkpoint_folder, 'save_tensors') as written,
          Timed(files, 'atomic_write') as files_made, Timed(os, 'fsync') as syncs): fit(work, make_cb())
    found = []
    for save,whole,made in zip(saves, written, files_made):
        waited = [end-start for start,end in syncs if save[0]<=start<=save[1]]
        parts = {'collect': whole[0]-save[0], 'serialise and hash': made[0]-whole[0], 'fsync of the file': waited[0],
                 'fsync of the folder': waited[1], 'write and rename': made[1]-made[0]-sum(waited),
                 'delete': save[1]-whole[1], 'whole': save[1]-save[0]}
        found.append({k: v*1000 for k,v in parts.items()})
    return {k: median(save[k] for save in found) for k in found[0]}

def check_us(work, make_cb):
    "Microseconds that Checkpoint takes at a step at which it saves nothing, which are most of them."
    with Timed(Checkpoint, 'after_batch') as checks: fit(work, make_cb())
    return median(end-start for start,end in checks)*1e6

def measure(name, rounds, folder, x, y):
    hidden,bs,steps,every,limit,times = CASES[name]
    work = loops.Work(name, lambda: mlp([x.shape[1], *hidden, 10]), x[:bs*steps], y[:bs*steps], bs)
    def cb(): return Checkpoint(folder, resume=False, log=None, **({'seconds': None, 'every': every} if every else {}))
    fit(work), fit(work, cb())
    gc.freeze() # what is imported needn't be looked at again
    seconds = [],[]
    for i in range(rounds*times):
        for which in (0, 1) if i%2 else (1, 0): seconds[which].append(fit(work, *[cb()]*which))
    profiles = [profile(work, cb) for _ in range(20 if hidden[0]<100 else 3)]
    save_ms  = {k: median(p[k] for p in profiles) for k in profiles[0]}

    step_ms,check = median(seconds[0])/steps*1000,check_us(work, cb)
    a_minute = 0 if every else save_ms['whole']/60_000
    saves = save_ms['whole']/every if every else step_ms*a_minute # ms a step
    low,ratio,high = (q+a_minute for q in quantiles(b/a for a,b in zip(*seconds)))
    size = max(path.stat().st_size for path in folder.glob('checkpoint_*'))/1000
    found = dict(kb=size, steps=steps, every=every, step_ms=step_ms, limit=1+limit/100, ratio=ratio,
                 quartiles=[low, high], computed=1+(check/1000+saves)/step_ms, check_us=check, save_ms=save_ms,
                 enough_ms=(check/1000+saves)/limit*100 if every else None, without=seconds[0], with_it=seconds[1])
    print(f"{name}: {size:.0f} kB, a step of {step_ms:.2f} ms, {len(seconds[0])} pairs of fits")
    print(f"    ratio {ratio:.4f} (quartiles {low:.4f} and {high:.4f}), computed {found['computed']:.4f}, at most "
          f"{1+limit/100}" + (f": would need steps of {found['enough_ms']:.1f} ms" if every else ''))
    print(f'    a step that saves nothing: {check:.1f} us; a save, ms: ' +
          ', '.join(f'{k} {v:.2f}' for k,v in save_ms.items()), flush=True)
    return found

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--cases', nargs='+', choices=list(CASES), default=list(CASES))
    parser.add_argument('--out', type=Path, default=here/'results'/'checkpoint.json')
    args = parser.parse_args()
    work = loops.get_work('mlp784-bs64')
    out = dict(machine=machine(), rounds=args.rounds, cases={})
    for name in args.cases:
        with tempfile.TemporaryDirectory() as folder:
            out['file_system'] = file_system(Path(folder))
            out['cases'][name] = measure(name, args.rounds, Path(folder), work.x, work.y)
    args.out.write_text(json.dumps(out, indent=1)+'\n')

if __name__=='__main__': main()
