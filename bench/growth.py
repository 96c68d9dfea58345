"""How the Runner's cost grows with the number of callbacks, what statistics and the whole recipe cost in it, and how an
epoch's time grows with the size of batch, layer or data.

    python bench/growth.py [--rounds 13] [--out bench/results/growth.json]

Everything runs in one process. The loop by hand and the Runner take turns, and which goes first alternates. Callbacks
cost little, and get many more rounds, on fewer images. Statistics also have work at an epoch's end, so these epochs are
whole, and the turns a few batches each."""
import argparse, gc, json, os, time
from functools import partial
from pathlib import Path
from statistics import median
from types import SimpleNamespace

os.environ['OMP_NUM_THREADS'] = '1'
import torch
torch.set_num_threads(1)
import torch.nn.functional as F
from torch import nn

import contenders, loops
from lesson9.callbacks import Callback, DataBunch, Learner, Runner
from run import machine
from turns import take_turns

per_batch = ['begin_batch', 'after_pred', 'after_loss', 'after_backward', 'after_step', 'after_batch']

class Idle(Callback):
    "Listen to every event of a batch, and do nothing."
for event in per_batch: setattr(Idle, event, lambda self: None)

def seconds(work, cbs=None):
    "Time one epoch: of the Runner with the callbacks `cbs`, or of the loop by hand if they're None."
    model,batches = work.model(),work.batches()
    opt = work.opt(model)
    gc.collect()
    if cbs is None: loops.by_hand(work, model, opt, batches)
    else: Runner(cbs).fit(1, Learner(model, opt, F.cross_entropy, DataBunch(batches)))
    return batches.seconds

def compare(work, rounds, cbs_funcs):
    "Time the loop by hand and the Runner for each of `cbs_funcs`, which make lists of callbacks."
    seconds(work), seconds(work, [])
    gc.freeze() # what's loaded by now needn't be searched before each turn
    found = [([], []) for _ in cbs_funcs]
    for i in range(rounds):
        for (hand,ours),cbs in zip(found, cbs_funcs):
            for which in (0, 1) if i%2 else (1, 0):
                if which==0: hand.append(seconds(work))
                else: ours.append(seconds(work, cbs()))
    return [dict(steps=len(work.batches()), hand=hand, ours=ours) for hand,ours in found]

def compare_statistics(work, rounds):
    "Microseconds a step of each loop in whole epochs. All train one model in turns of 8 batches, a new one each round."
    def step_us(names):
        gc.collect()
        model = work.model()
        opt = work.opt(model, momentum=0.9)
        def loop(name, turn): # with the model and the optimiser of all
            mine = SimpleNamespace(batches=lambda: turn, opt=lambda *_: opt, taking_turns=len(names))
            getattr(contenders, name)(mine, model)
        seconds = take_turns({name: (partial(loop, name), work.batches()) for name in names}, 8)
        return {name: s/len(work.batches())*1e6 for name,s in seconds.items()}

    names = ['hand', 'hand_stats', 'lesson9', 'lesson9_stats', 'lesson9_full']
    step_us(names) # isn't counted
    found = [step_us(names[::1 if i%2 else -1]) for i in range(rounds)]
    return {name: [us[name] for us in found] for name in names}

def with_width(work, nh):
    n_in = work.x.shape[1]
    def model(): return nn.Sequential(nn.Linear(n_in, nh), nn.ReLU(), nn.Linear(nh, 10))
    return loops.Work(f'width {nh}', model, work.x, work.y, work.bs)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=13)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'growth.json')
    args = parser.parse_args()
    began,out = time.perf_counter(),dict(machine=machine(), rounds=args.rounds)

    small = loops.get_work('mlp16-bs64', 2560)
    counts = [0, 1, 2, 4, 8, 16, 32]
    idle = [lambda n=n: [Idle() for _ in range(n)] for n in counts]
    out['callbacks'] = [dict(n=n, **r) for n,r in zip(counts, compare(small, 5*args.rounds, idle))]
    fastest = min(t for r in out['callbacks'] for t in r['hand'])
    for r in out['callbacks']:
        over = (min(r['ours'])-fastest)/r['steps']*1e6
        print(f"{r['n']:3} callbacks: {over:6.1f} us a step over the hand-written loop (best rounds)")

    out['statistics'] = compare_statistics(loops.get_work('mlp16-bs64'), 2*args.rounds)
    for name,us in out['statistics'].items():
        added = median(u-h for u,h in zip(us, out['statistics']['hand']))
        print(f'{name:13} {median(us):6.1f} us a step, {added:6.1f} more than by hand')

    base = loops.get_work('mlp784-bs64', 5000)
    sized = loops.get_work('mlp784-bs64')
    def batches_of(bs): return loops.Work('', base.model_func, base.x, base.y, bs)
    def images(n): return loops.Work('', sized.model_func, sized.x[:n], sized.y[:n], 64)
    grids = {'batch size': [(bs, batches_of(bs)) for bs in (16, 32, 64, 128, 256, 512, 1024)],
             'hidden units': [(nh, with_width(base, nh)) for nh in (10, 50, 250, 1000)],
             'training images': [(n, images(n)) for n in (2000, 5000, 10_000, 20_000, 50_000)]}
    for name,grid in grids.items():
        out[name] = [dict(n=n, **compare(work, args.rounds, [list])[0]) for n,work in grid]
        for r in out[name]:
            ratio = median(o/h for o,h in zip(r['ours'], r['hand']))
            hand,runner = median(r['hand']),median(r['ours'])
            print(f"{name} {r['n']:6}: by hand {hand:.3f} s, Runner {runner:.3f} s, ratio {ratio:.3f}")
    out['minutes'] = (time.perf_counter()-began)/60
    args.out.write_text(json.dumps(out, indent=1)+'\n')
    print(f"written: {args.out}, after {out['minutes']:.1f} minutes")

if __name__=='__main__': main()
