"""What torch.compile saves on a CPU, and what compiling costs: parts of a step compiled, or all of it.

    python bench/compiled.py [--rounds 21] [--out bench/results/compiled.json]

Every form of the step takes turns with the loop by hand, in a process of its own. Before that, another process compiles
it with an empty cache on disk (in a temporary folder), and this one compiles it again from what that one left there."""
import argparse, gc, json, os, subprocess, sys, tempfile, time
from pathlib import Path

os.environ['OMP_NUM_THREADS'] = '1'
import torch
torch.set_num_threads(1)
import torch.nn.functional as F
from torch.func import functional_call, grad_and_value

import loops
from lesson9.callbacks import Callback, DataBunch, Learner, Runner
from lesson9.gpu import Compile, _missing_compiler
from run import machine, plan

# Each form makes a function that trains on a batch.
def plain(model, loss_func, opt):
    def step(xb, yb):
        loss = loss_func(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
    return step

def by_hand(model, opt): return plain(model, F.cross_entropy, opt)

def apart(model, opt):
    "Model and loss function compiled, each for itself: what the callback `Compile` does."
    return plain(torch.compile(model), torch.compile(F.cross_entropy), opt)

def together(model, opt):
    "Model and loss in one compiled function, which has a compiled backward; the optimiser's step in another."
    @torch.compile
    def forward(xb, yb): return F.cross_entropy(model(xb), yb)
    opt_step = torch.compile(lambda: opt.step())
    def step(xb, yb):
        forward(xb, yb).backward()
        opt_step()
        opt.zero_grad()
    return step

def whole(model, opt):
    "Forward, loss, backward and the step of SGD in one compiled function."
    params = {name: p.detach() for name,p in model.named_parameters()} # the same memory
    lr = torch.zeros(()) # a float would be compiled anew for each value
    def compute_loss(params, xb, yb):
        pred = functional_call(model, params, (xb,))
        return F.cross_entropy(pred, yb),pred
    gradients = grad_and_value(compute_loss, has_aux=True)

    @torch.compile(fullgraph=True)
    def compiled(params, xb, yb, lr):
        grads,(loss,pred) = gradients(params, xb, yb)
        for name,p in params.items(): p.sub_(lr*grads[name])
        return loss,pred
    def step(xb, yb):
        lr.fill_(opt.param_groups[0]['lr'])
        return compiled(params, xb, yb, lr)
    return step

class WholeStep(Callback):
    "Train with `whole`. Between `begin_batch` and `after_replay`, other callbacks see nothing, as with `CudaGraph`."
    order = Compile.order + 1000 # the last to change a batch
    step = None
    def begin_fit(self): self.step = self.step or whole(self.model, self.opt)
    def begin_batch(self):
        if not self.in_train: return
        self.run.loss,self.run.pred = self.step(self.xb, self.yb)
        self.run.end('after_replay')
        return True # the batch is done

forms = {'apart': apart, 'together': together, 'whole': whole}
callbacks = {'apart': Compile, 'whole': WholeStep} # the same with a Runner

def train(step, batches):
    for xb,yb in batches: step(xb, yb)

def first_step(step, batches):
    "Seconds of the first step."
    xb,yb = next(iter(batches))
    start = time.perf_counter()
    step(xb, yb)
    return time.perf_counter()-start

def measure(form, workload, n, rounds):
    "Compile, then race the form, the same with a Runner, and the loop by hand. Without rounds, only compile."
    work = loops.get_work(workload, n)
    model,cb = work.model(),callbacks[form]() if form in callbacks else None
    opt,start = work.opt(model),[p.detach().clone() for p in model.parameters()]
    first_step(by_hand(work.model(), opt), work.batches()) # loads what's loaded once
    step = forms[form](model, opt)
    found = dict(compile=first_step(step, work.batches()), steps=len(work.batches()))
    if not rounds: return found

    learn = Learner(model, opt, F.cross_entropy, None)
    def fit(batches):
        learn.data = DataBunch(batches)
        Runner(cb).fit(1, learn)
    ways = dict(hand=lambda batches: train(by_hand(model, opt), batches), compiled=lambda batches: train(step, batches))
    if cb: ways['runner'] = fit
    weights,seconds = {},{way: [] for way in ways}
    for i in range(-1, rounds): # the first isn't kept
        for way in list(ways)[::1 if i%2 else -1]:
            for p,old in zip(model.parameters(), start): p.data.copy_(old)
            batches = work.batches()
            gc.collect()
            ways[way](batches)
            if i>=0: seconds[way].append(batches.seconds)
            weights[way] = torch.cat([p.detach().flatten() for p in model.parameters()])
    differ = max(float((w-weights['hand']).abs().max()) for w in weights.values())
    return dict(found, seconds=seconds, weights_differ=differ)

def in_new_process(form, workload, n, rounds, cache):
    env = dict(os.environ, TORCHINDUCTOR_CACHE_DIR=cache, PYTHONPATH=str(Path(__file__).parent.parent))
    command = [sys.executable, __file__, '--measure', form, workload, str(n), str(rounds)]
    found = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workloads', nargs='+', default=['mlp16-bs64', 'mlp784-bs512'])
    parser.add_argument('--forms', nargs='+', default=list(forms))
    parser.add_argument('--rounds', type=int, default=21)
    parser.add_argument('--images', type=int, help='of each epoch; without it, a number for each workload')
    parser.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'compiled.json')
    parser.add_argument('--measure', nargs=4, help=argparse.SUPPRESS) # what a new process does
    args = parser.parse_args()
    if args.measure:
        form,workload,n,rounds = args.measure
        print('\n'+json.dumps(measure(form, workload, int(n), int(rounds))))
        return
    if missing := _missing_compiler('cpu'):
        print(f'not measured: torch.compile needs {missing}, which is not on this machine')
        return

    began = time.perf_counter()
    out = dict(machine=machine(), rounds=args.rounds, workloads={})
    for workload in args.workloads:
        out['workloads'][workload] = {}
        for form in args.forms:
            with tempfile.TemporaryDirectory() as cache:
                n = args.images or plan.get(workload, (12_800, 0))[0]
                empty = in_new_process(form, workload, n, 0, cache)
                found = in_new_process(form, workload, n, args.rounds, cache)
            out['workloads'][workload][form] = dict(found, compile=empty['compile'], from_cache=found['compile'])
            show(workload, form, out['workloads'][workload][form])
        out['minutes'] = (time.perf_counter()-began)/60
        args.out.write_text(json.dumps(out, indent=1)+'\n')
    print(f"written: {args.out}, after {out['minutes']:.1f} minutes")

def show(workload, form, r):
    hand = r['seconds']['hand']
    ratios = {way: [t/h for t,h in zip(times, hand)] for way,times in r['seconds'].items() if way!='hand'}
    words = [f'{way} {sorted(v)[len(v)//2]:.2f} ({min(v):.2f} - {max(v):.2f})' for way,v in ratios.items()]
    print(f"{workload} {form}: times as long as by hand: {', '.join(words)}; compiled in {r['compile']:.1f} s, from "
          f"the cache in {r['from_cache']:.1f} s; weights differ by {r['weights_differ']:.0e}", flush=True)

if __name__=='__main__': main()
