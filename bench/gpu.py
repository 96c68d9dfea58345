"""The Runner on an accelerator, each way of training against the same thing written by hand; what waits in the loop,
and what memory it takes; and the times to 99 % and 99.4 %.

    python bench/gpu.py                        needs a CUDA device; writes bench/results/gpu.json
    python bench/gpu.py --device cpu --rounds 1 --images 2000 --runs 1 --out /tmp/try.json      tries it without one
    python bench/gpu.py --parts times --seconds 100      one part, in that time; other parts in the file stay

Each way adds one thing to the ways before it. Both sides keep the epoch's loss and accuracy, start from the same
weights and get the same batches. They train in turns, an epoch each, and which goes first alternates. An epoch is timed
between two synchronisations. The first, which compiles and captures, is left out; in the last, which isn't timed, each
wait for the device is counted. The file is written after each result. What there was no time for is listed in it."""
import argparse, itertools, json, time, warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Callable

import torch, torch.nn.functional as F
from torch import nn, optim
from torch.utils.flop_counter import FlopCounterMode

import loops
from lesson9.anneal import ParamScheduler, combine_scheds, cos_1cycle_anneal
from lesson9.augment import BatchTransform, RandomShift
from lesson9.averages import AvgStatsCallback
from lesson9.callbacks import Callback, DataBunch, Learner, Runner, TrainEvalCallback
from lesson9.convnet import get_cnn, init_cnn
from lesson9.cuda_graph import CudaGraph, CudaGraphCapture, GraphCapture
from lesson9.data import get_data, normalize
from lesson9.devices import DeviceCallback, DeviceLoader, Prefetch
from lesson9.gpu import Compile, MixedPrecision, amp_dtype, fast_math
from lesson9.minibatch import DataLoader, Dataset, accuracy
from lesson9.recipe import one_cycle_runner
from lesson9.sync import SyncCounter
from run import machine

ways = 'plain', '+ MixedPrecision', '+ DeviceLoader', '+ Compile', '+ CudaGraph'
warmup = 3 # ordinary steps before one is captured as a CUDA graph

def sync(device):
    if device.type=='cuda': torch.cuda.synchronize()

class Turns(Callback):
    "Time each epoch, in turns with one of the same thing by hand; then end the fit with an epoch that counts waits."
    order = TrainEvalCallback.order - 80 # before all others
    def __init__(self, by_hand, rounds, seconds):
        self.by_hand,self.found = by_hand,[] # of each epoch: seconds and MiB, by side
        self.rounds,self.waits = rounds,None
        self.end = time.monotonic()+seconds

    def begin_epoch(self):
        device = next(self.model.parameters()).device
        counted,late = len(self.found)-1,time.monotonic()>self.end
        self.last = counted>=self.rounds or late and counted>=min(5, self.rounds)
        self.found.append({})
        self.hand_first = self.epoch%2==0
        if self.hand_first: self.found[-1]['hand'] = next(self.by_hand)
        torch.manual_seed(self.epoch) # both sides get the same batches
        self.watch = (Waits if self.last else Watch)(device)

    def after_epoch(self): # the first listener: the others may read numbers now
        self.found[-1]['ours'] = self.watch.stop()
        if not self.hand_first: self.found[-1]['hand'] = next(self.by_hand)
        if self.last: self.waits = self.found.pop()['ours']
        return self.last

class Waits:
    "Count how often the processor waits for the device."
    def __init__(self, device):
        self.stack = ExitStack()
        if device.type!='cuda':
            self.found = self.stack.enter_context(SyncCounter()).calls
            return
        self.found = self.stack.enter_context(warnings.catch_warnings(record=True))
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn') # 'error' would end at the first of them
        self.stack.callback(torch.cuda.set_sync_debug_mode, 'default')

    def stop(self):
        self.stack.close()
        return sum(isinstance(found, str) or 'synchroniz' in str(found.message) for found in self.found)

class Watch:
    "Measure seconds, and the MiB of the device's memory that were allocated at most beyond those at the start."
    def __init__(self, device):
        self.device = device
        sync(device)
        if device.type=='cuda':
            self.before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
        self.start = time.perf_counter()

    def stop(self):
        sync(self.device)
        seconds = time.perf_counter()-self.start
        return seconds,(torch.cuda.max_memory_allocated()-self.before)/2**20 if self.device.type=='cuda' else 0.

def make(work, device):
    "Make the model on `device`, and its optimiser."
    model = work.model().to(device)
    return model,optim.SGD(model.parameters(), lr=work.lr, fused=True)

def by_hand(work, device, way, model, opt):
    "The training loop written by hand. Yields the seconds and MiB of each epoch."
    level = ways.index(way)
    net,loss_func = (torch.compile(model),torch.compile(F.cross_entropy)) if level>=3 else (model,F.cross_entropy)
    x,y = (work.x.to(device),work.y.to(device)) if level>=2 else (work.x,work.y)
    loss_sum,acc_sum = torch.zeros((), device=device),torch.zeros((), device=device)

    def step(xb, yb):
        with torch.autocast(device.type, amp_dtype(device), enabled=level>=1, cache_enabled=False):
            pred = net(xb)
            loss = loss_func(pred, yb)
        with torch.no_grad():
            loss_sum.add_(loss, alpha=len(xb))
            acc_sum.add_((pred.argmax(-1)==yb).float().mean(), alpha=len(xb))
        loss.backward()
        opt.step()
        opt.zero_grad()

    graph,seen = None,0
    for epoch in itertools.count():
        torch.manual_seed(epoch)
        watch = Watch(device)
        for s in loss_sum,acc_sum: s.zero_()
        model.train()
        order = torch.randperm(len(x)).to(x.device)
        for i in range(0, len(order), work.bs):
            idx = order[i:i+work.bs]
            xb,yb = x[idx].to(device),y[idx].to(device)
            seen += 1
            if level<4 or device.type!='cuda' or len(xb)<work.bs or seen<=warmup: step(xb, yb)
            elif graph is None:
                static = xb.clone(),yb.clone()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph): step(*static)
                graph.replay()
            else:
                for old,new in zip(static, (xb, yb)): old.copy_(new)
                graph.replay()
        for s in loss_sum,acc_sum: float(s) # as AvgStatsCallback reads them
        yield watch.stop()

def compare(work, device, way, rounds, seconds):
    "Train with the Runner and by hand, an epoch each in turns. Return what each epoch took but the first."
    torch.compiler.reset()
    level,(model,opt) = ways.index(way),make(work, device)
    ds = Dataset(work.x, work.y)
    dl = DeviceLoader(ds, work.bs, True, device) if level>=2 else DataLoader(ds, work.bs, True)
    hand_model,hand_opt = make(work, device)
    turns = Turns(by_hand(work, device, way, hand_model, hand_opt), rounds, seconds)
    cbs = [turns, AvgStatsCallback(accuracy, log=None), DeviceCallback(device)]
    if level>=1: cbs.append(MixedPrecision())
    if level>=3: cbs.append(Compile())
    if level>=4: cbs.append(CudaGraph(warmup, CudaGraphCapture if device.type=='cuda' else GraphCapture))
    Runner(cbs).fit(rounds+2, Learner(model, opt, F.cross_entropy, DataBunch(dl)))

    counted = turns.found[1:]
    out = {side: [epoch[side][0] for epoch in counted] for side in ('hand', 'ours')}
    out['ratio'] = [ours/hand for ours,hand in zip(out['ours'], out['hand'])]
    out['mib'] = {side: max(epoch[side][1] for epoch in counted) for side in ('hand', 'ours')}
    out['waits'],out['steps'] = turns.waits,len(dl)
    a,b = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (hand_model, model))
    out['weights_differ'],out['weights_size'] = float((a-b).abs().max()),float(a.abs().max())
    return out

def floor(work, device):
    "Compute the least seconds of an epoch from its operations and bytes, and from what this device can do."
    dtype,n = (amp_dtype(device),8192) if device.type=='cuda' else (torch.float32,1024)
    def best(f):
        times = []
        for _ in range(10):
            sync(device)
            start = time.perf_counter()
            f()
            sync(device)
            times.append(time.perf_counter()-start)
        return min(times)
    a = torch.randn(n, n, device=device, dtype=dtype)
    big = torch.empty(2**26 if device.type=='cuda' else 2**24, device=device)
    flops_per_s,bytes_per_s = 2*n**3/best(lambda: a@a),2*big.nbytes/best(lambda: big.clone())
    model,_ = make(work, device)
    xb,yb = work.x[:work.bs].to(device).float(),work.y[:work.bs].to(device)
    with FlopCounterMode(display=False) as counter: F.cross_entropy(model(xb), yb).backward()
    steps,weights = len(work.batches()),sum(p.nbytes for p in model.parameters())
    nbytes = 3*xb.nbytes + 6*weights
    flops = counter.get_total_flops()
    return dict(flops_per_s=flops_per_s, bytes_per_s=bytes_per_s, flops=flops*steps, bytes=nbytes*steps,
                seconds=steps*max(flops/flops_per_s, nbytes/bytes_per_s))

def small_net():
    def layer(ni, nf, ks=3):
        conv = nn.Conv2d(ni, nf, ks, padding=ks//2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(nf), nn.ReLU(), nn.MaxPool2d(2))
    layers = layer(1,24,5),layer(24,48),layer(48,96)
    return nn.Sequential(nn.Unflatten(1, (1,28,28)), *layers, nn.Flatten(), nn.Linear(96*9, 10))

class Until(Callback):
    "End the fit when the validation accuracy is reached, and note the seconds since it began."
    order = AvgStatsCallback.order + 10 # after the epoch's averages
    def __init__(self, accuracy):
        self.accuracy,self.best = accuracy,0.
        self.seconds = None

    def begin_fit(self): self.start = time.perf_counter()
    def after_epoch(self):
        self.best = max(self.best, self.run.avg_stats.history[-1]['valid_accuracy'])
        if self.best>=self.accuracy:
            self.seconds = time.perf_counter()-self.start
            return True

@dataclass
class Recipe:
    "How to get to a validation accuracy of `target`."
    target: float
    model: Callable
    opt: Callable
    run: Callable # makes a Runner from a learner and callbacks
    bs: int
    epochs: int
    loss_func: Callable = F.cross_entropy
    cbs: Callable = field(default=list)

def run_short(learn, cbs):
    sched = combine_scheds([0.3, 0.7], cos_1cycle_anneal(1e-3, 1e-2, 1e-5))
    return Runner([AvgStatsCallback(accuracy, log=None), ParamScheduler('lr', sched), *cbs])

# A captured step reads one momentum, so that of the page about 99.4 % doesn't change here.
def run_long(learn, cbs): return one_cycle_runner(learn, 0.2, accuracy, cbs, momentums=None, progress=False)

recipes = {
    'to_99': Recipe(0.99, small_net, partial(optim.AdamW, lr=1e-3, fused=True), run_short, 256, 6),
    'to_99.4': Recipe(0.994, lambda: init_cnn(get_cnn((16,32,64,64), bn=True)),
                      partial(optim.SGD, lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True),
                      run_long, 128, 16, nn.CrossEntropyLoss(label_smoothing=0.1),
                      lambda: [BatchTransform(RandomShift(2))])}

def time_to(device, recipe, seed, n, epochs=None):
    "Time a run from loaded data to the recipe's validation accuracy; None if its last epoch didn't reach it."
    x,y,xv,yv = get_data()
    mean,std = x.mean(),x.std()
    train = DeviceLoader(Dataset(normalize(x[:n], mean, std), y[:n]), recipe.bs, True, device)
    valid = DeviceLoader(Dataset(normalize(xv, mean, std), yv), 2000, False, device)
    torch.manual_seed(seed)
    model = recipe.model().to(device)
    learn = Learner(model, recipe.opt(model.parameters()), recipe.loss_func, DataBunch(train, valid))
    cbs = [DeviceCallback(device), Until(recipe.target), *recipe.cbs()]
    if device.type=='cuda': cbs += [MixedPrecision(), CudaGraph()]
    run = recipe.run(learn, cbs)
    with fast_math(learn): run.fit(epochs or recipe.epochs, learn)
    return dict(seconds=run.until.seconds, best=run.until.best, epochs=run.epoch+1)

def loaders(work, device, rounds):
    "Time an epoch with each way to bring batches to the device, in turns. Return the seconds by way."
    ds,tensors = Dataset(work.x, work.y),torch.utils.data.TensorDataset(work.x, work.y)
    pinned = torch.utils.data.DataLoader(tensors, work.bs, pin_memory=device.type=='cuda')
    bytes_ds = Dataset((work.x*255).round().byte(), work.y)
    ways = {'DeviceCallback': DataLoader(ds, work.bs), 'Prefetch': Prefetch(DataLoader(ds, work.bs), device),
            "PyTorch's loader, pinned": pinned, 'Prefetch of that': Prefetch(pinned, device),
            'DeviceLoader': DeviceLoader(ds, work.bs, device=device),
            'DeviceLoader, bytes': DeviceLoader(bytes_ds, work.bs, device=device)}
    model,opt = make(work, device)
    found = {name: [] for name in ways}
    for i in range(rounds+1): # the first isn't counted
        for name in list(ways)[::-1 if i%2 else 1]:
            run = Runner([DeviceCallback(device), AvgStatsCallback(accuracy, log=None)])
            watch = Watch(device)
            run.fit(1, Learner(model, opt, F.cross_entropy, DataBunch(ways[name])))
            if i: found[name].append(watch.stop()[0])
    return found

class Results:
    "What is written to `path`, after each result. `seconds` from now on there is no time left."
    def __init__(self, path, seconds, fresh, **kwargs):
        self.path,self.end = path,time.monotonic()+seconds
        kept = {} if fresh or not path.exists() else json.loads(path.read_text())
        self.found = kept | kwargs
        self.left_out = self.found.setdefault('left_out', [])

    def late(self, part):
        "Is there no time left for `part`? Then note that it's left out."
        late = time.monotonic()>self.end
        if late: self.left_out.append(part)
        if late: print(f'left out, no time: {part}', flush=True)
        return late

    def save(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.found, indent=1)+'\n')

def measure_ways(results, device, args):
    found,floors = (results.found.setdefault(key, {}) for key in ('workloads', 'floor'))
    for workload in args.workloads:
        if results.late(workload): continue
        work = loops.get_work(workload, args.images)
        floors[workload],found[workload] = floor(work, device),{}
        print(f"{workload}: floor from operations and bytes {floors[workload]['seconds']*1e3:.2f} ms an epoch")
        for way in args.ways:
            if results.late(f'{workload}, {way}'): continue
            start = time.perf_counter()
            r = found[workload][way] = compare(work, device, way, args.rounds, args.way_seconds)
            r['all_seconds'] = time.perf_counter()-start
            results.save()
            hand,runner = (median(r[side])*1e3 for side in ('hand', 'ours'))
            ratio,low,high = (f(r['ratio']) for f in (median, min, max))
            print(f"  {way:18} by hand {hand:8.1f} ms an epoch, Runner {runner:8.1f} ms, "
                  f"ratio {ratio:.3f} ({low:.3f} - {high:.3f}) in {len(r['ratio'])} rounds, "
                  f"MiB {r['mib']['hand']:.1f} and {r['mib']['ours']:.1f}, {r['waits']} waits in {r['steps']} steps, "
                  f"weights differ by {r['weights_differ']:.1e}; {r['all_seconds']:.0f} s", flush=True)

def measure_times(results, device, args):
    for name in args.recipes:
        recipe = recipes[name]
        found = results.found[name] = []
        for seed in range(args.runs+1): # the first loads kernels and isn't counted
            if results.late(f'{name}, run {seed}'): break
            r = time_to(device, recipe, seed, args.images, args.epochs if seed else 1)
            if seed: found.append(r)
            results.save()
        times,best = ([r[key] for r in found if r[key]] for key in ('seconds', 'best'))
        print(f'{recipe.target:.1%} validation accuracy in {len(times)} of {len(found)} runs', end=': ')
        if times: print(f'median {median(times):.2f} s, from {min(times):.2f} to {max(times):.2f}', flush=True)
        else: print('best', [f'{acc:.2%}' for acc in best], flush=True)

def measure_loaders(results, device, args):
    if results.late('loaders'): return
    work = loops.get_work('convnet-bs512', args.images)
    found = results.found['loaders'] = loaders(work, device, min(args.rounds, 5))
    for name,times in found.items(): print(f'{work.name}, {name}: {median(times)*1e3:.1f} ms an epoch')

parts = {'ways': measure_ways, 'times': measure_times, 'loaders': measure_loaders}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--parts', nargs='+', choices=parts, default=[*parts])
    parser.add_argument('--seconds', type=float, default=3600, help='begin nothing more after that')
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument('--way-seconds', type=float, default=8, help='after that a way ends if it has 5 rounds')
    parser.add_argument('--images', type=int, default=50_000)
    parser.add_argument('--runs', type=int, default=10)
    parser.add_argument('--epochs', type=int, help="default: the recipe's")
    parser.add_argument('--recipes', nargs='*', choices=recipes, default=[*recipes])
    parser.add_argument('--workloads', nargs='+', default=['mlp784-bs512', 'convnet-bs512', 'mlp784-bs64'])
    parser.add_argument('--ways', nargs='+', default=ways)
    parser.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'gpu.json')
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type=='cuda' and not torch.cuda.is_available():
        raise SystemExit('no CUDA device here; --device cpu tries the script without one')

    name = torch.cuda.get_device_name(device) if device.type=='cuda' else 'none: a try on the processor'
    where = machine() | dict(gpu=name, cuda=torch.version.cuda)
    results = Results(args.out, args.seconds, [*parts]==args.parts, machine=where, images=args.images)
    for part in args.parts:
        parts[part](results, device, args)
        results.save()
    print(f'written: {args.out}')

if __name__=='__main__': main()
