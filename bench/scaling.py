"""How long a training step takes with 1, 2 and 4 processes on this machine, and what the messages between them take.

    python bench/scaling.py [--rounds 15] [--keep 9] [--patience 60] [--out bench/results/scaling.json]

There's a world of processes for each number of them, started once. The worlds take turns, one at a time, while the
others wait without using a processor. In a turn, the ways to train a model take turns, and which goes first
alternates. With `bs` samples for each process, the ways are: `alone` (each process trains for itself, nothing is
exchanged), `ddp` (a loop by hand around `DistributedDataParallel`) and `distributed` (`Runner([Distributed()])`). Each
process has one thread. Times are of the slowest process, in milliseconds a step; a fit's first steps aren't timed.

Other programs disturb such times. So a turn waits until the machine is idle (for `patience` seconds in all), and notes
how many processors other programs used while it ran (on Linux). Of each kind of turn, only the quietest are kept.
They're chosen by what other programs did, and not by how long ours took."""
import argparse, gc, json, os, sys, time, traceback
from multiprocessing import Pipe
from pathlib import Path
from statistics import quantiles

os.environ['OMP_NUM_THREADS'] = '1'
import torch
torch.set_num_threads(1)
import torch.distributed as dist, torch.nn.functional as F
from torch import nn, optim
from torch.nn.parallel import DistributedDataParallel

here = Path(__file__).parent
sys.path += [str(here), str(here.parent/'tests')]

from lesson9.callbacks import Callback, DataBunch, Learner, Runner
from lesson9.distributed import Distributed
from lesson9.parts import part_of
from lesson9.ranks import Ranks
from processes import Processes
from run import machine

def mlp(*sizes):
    layers = [layer for ni,nf in zip(sizes, sizes[1:]) for layer in (nn.Linear(ni, nf), nn.ReLU())]
    return nn.Sequential(*layers[:-1])

def convnet():
    def layer(ni, nf): return nn.Sequential(nn.Conv2d(ni, nf, 3, padding=1, stride=2), nn.ReLU())
    return nn.Sequential(nn.Unflatten(1, (1, 28, 28)), layer(1, 16), layer(16, 32), layer(32, 64),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

# how to make a model; how many steps of it are timed in a fit
MODELS = {'small MLP': (lambda: mlp(784, 50, 10), 40), 'convnet': (convnet, 5),
          'wide MLP': (lambda: mlp(784, 1024, 1024, 10), 5)}
BATCH = 128         # samples for each process, or for all of them together
SIZES = [1, 2, 4]   # processes
WARM  = 2           # steps of a fit that aren't timed
BYTES = [2**k for k in (3, 12, 14, 16, 18, 20, 22, 24)]

def size(): return int(os.environ['WORLD_SIZE'])
def wait():
    gc.collect()
    if size()>1: dist.barrier()

# ways to train: what a process does, for a model and `bs` samples a process. Each returns the seconds of a step.
class Stopwatch(Callback):
    "Time the steps after the first ones."
    order = 10_000
    def __init__(self, steps): self.steps,self.done = steps,0
    def tick(self):
        self.done += 1
        if self.done==WARM: self.start = time.perf_counter()
        if self.done==WARM+self.steps: self.seconds = (time.perf_counter()-self.start)/self.steps
    def after_batch(self): self.tick()

def made(model, n):
    "The model, its optimiser, batches of `n` samples and a stopwatch."
    make,steps = MODELS[model]
    torch.manual_seed(0)
    net = make()
    x,y = torch.randn(n, 784),torch.randint(10, (n,))
    return net,optim.SGD(net.parameters(), lr=0.01),[(x, y)]*(WARM+steps),Stopwatch(steps)

def loop(net, opt, batches, watch, part):
    "The loop by hand."
    net.train()
    for xb,yb in batches:
        loss = F.cross_entropy(net(xb[part]), yb[part])
        loss.backward()
        opt.step()
        opt.zero_grad()
        watch.tick()

def alone(model, bs):
    net,opt,batches,watch = made(model, bs)
    wait()
    loop(net, opt, batches, watch, slice(0, bs))
    return watch.seconds

def ddp(model, bs, weights=False):
    net,opt,batches,watch = made(model, bs*size())
    wait()
    loop(DistributedDataParallel(net), opt, batches, watch, part_of(bs*size(), dist.get_rank(), size()))
    return flat(net) if weights else watch.seconds

def distributed(model, bs, weights=False):
    net,opt,batches,watch = made(model, bs*size())
    run = Runner([Distributed(), watch])
    wait()
    run.fit(1, Learner(net, opt, F.cross_entropy, DataBunch(batches)))
    return flat(net) if weights else watch.seconds

def flat(net): return torch.cat([p.detach().flatten() for p in net.parameters()]).numpy()

# messages
def each(f, n):
    f(), f()
    wait()
    start = time.perf_counter()
    for _ in range(n): f()
    return (time.perf_counter()-start)/n

def all_reduce(nbytes):
    t = torch.zeros(nbytes//4)
    return each(lambda: dist.all_reduce(t), 20 if nbytes<2**20 else 3)

def meetings():
    "The three that `Distributed` makes in a step."
    ranks = Ranks()
    number = torch.zeros((), dtype=torch.float64)
    def meet():
        ranks.meet('begin_batch')
        ranks.meet('after_loss', False)
        ranks.sum(number)
    return each(meet, 20)

def serve(ends):
    "What a process does: call a function of this file whenever it's asked to."
    end = ends[int(os.environ['RANK'])]
    if size()>1: dist.init_process_group('gloo')
    gc.freeze() # what is imported needn't be looked at again
    while (order := end.recv())!='end':
        name,args = order
        used = time.process_time()
        try: answer,error = globals()[name](*args),None
        except Exception: answer,error = None,traceback.format_exc()
        end.send((answer, error, time.process_time()-used))

class World:
    "Processes that wait to be told what to do."
    def __init__(self, n):
        pairs = [Pipe() for _ in range(n)]
        self.ends = [ours for ours,_ in pairs]
        self.processes = Processes(n, serve, [theirs for _,theirs in pairs])
        self.used = 0. # seconds of processors

    def all(self, name, *args):
        "Call a function in all processes; return what each answers."
        for end in self.ends: end.send((name, args))
        answers = []
        for rank,end in enumerate(self.ends):
            if not end.poll(120): raise RuntimeError(f'rank {rank} does not answer. {self.processes.error(rank)}')
            answer,error,used = end.recv()
            self.used += used
            if error: raise RuntimeError(error)
            answers.append(answer)
        return answers

    def ms(self, *order): return max(self.all(*order))*1000

    def close(self):
        for end in self.ends: end.send('end')
        self.processes.results()

def turns_of(n):
    "What is timed with `n` processes: for each kind of turn, names, and for each the function to call."
    kinds = []
    for model in MODELS:
        for bs in [BATCH, BATCH//2, BATCH//4] if n==1 else [BATCH, BATCH//n]:
            ways = ['alone', 'distributed'] if n==1 else ['alone', 'ddp', 'distributed']
            kinds.append({f'{model}, {way}, {bs}': (way, model, bs) for way in ways})
    messages = {f'all_reduce, {nbytes}': ('all_reduce', nbytes) for nbytes in BYTES}
    return kinds if n==1 else [*kinds, messages | {'meetings': ('meetings',)}]

def differ(world, model):
    "The largest difference between final weights, of the loop by hand and the `Runner`."
    by_hand,ours = (world.all(way, model, BATCH//4, True)[0] for way in ('ddp', 'distributed'))
    return float(abs(by_hand-ours).max())

def busy_seconds():
    "How long all processors have been busy since the machine started; 0 if the system doesn't say."
    stat = Path('/proc/stat')
    if not stat.exists(): return 0
    user,nice,system = map(int, stat.read_text().split()[1:4])
    return (user+nice+system)/os.sysconf('SC_CLK_TCK')

class Patience:
    "Wait until other programs are idle, but not longer than some seconds in all."
    def __init__(self, seconds): self.left = seconds
    def wait(self):
        while self.left>0:
            start,busy = time.perf_counter(),busy_seconds()
            time.sleep(0.2)
            took = time.perf_counter()-start
            if busy_seconds()-busy<0.1*took: break
            self.left -= took

def turn(world, todo):
    "Do all jobs once; return the time of each, and how many processors other programs used meanwhile."
    start,busy = time.perf_counter(),busy_seconds()
    used   = world.used+time.process_time()
    found  = {name: world.ms(*job) for name,job in todo}
    others = busy_seconds()-busy - (world.used+time.process_time()-used)
    return found,max(0, others/(time.perf_counter()-start))

def summary(turns, keep):
    "Medians and quartiles of the quietest turns of one kind."
    turns,found = sorted(turns, key=lambda t: t[1])[:keep],{}
    for name in turns[0][0]:
        ms = [round(times[name], 5) for times,_ in turns]
        low,mid,high = (round(q, 5) for q in quantiles(ms, n=4))
        found[name] = dict(median=mid, quartiles=[low, high], ms=ms, others=[round(others, 2) for _,others in turns])
    return found

def measure(rounds, keep, patience):
    "Rounds of all turns; returns for each number of processes what each job took, and how far the weights differ."
    worlds,todo = {n: World(n) for n in SIZES},{n: turns_of(n) for n in SIZES}
    found = {n: [[] for _ in todo[n]] for n in SIZES}
    try:
        weights = {model: differ(worlds[2], model) for model in MODELS}
        for i in range(rounds):
            if patience.left<=0 and i>=keep: break # the machine is busy
            step = 1 if i%2 else -1
            for n in SIZES[::step]:
                for kind,turns in zip(todo[n], found[n]):
                    patience.wait()
                    turns.append(turn(worlds[n], [*kind.items()][::step]))
    finally:
        for world in worlds.values(): world.close()
    return {n: {k: v for turns in found[n] for k,v in summary(turns, keep).items()} for n in SIZES},weights

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--keep', type=int, default=9, help='at least 2')
    parser.add_argument('--patience', type=float, default=60)
    parser.add_argument('--out', type=Path, default=here/'results'/'scaling.json')
    args = parser.parse_args()
    load,start = os.getloadavg()[0],time.perf_counter()
    patience = Patience(args.patience)
    found,weights = measure(args.rounds, args.keep, patience)
    models = {name: dict(parameters=sum(p.numel() for p in make().parameters()), steps=steps,
                         weights_differ=weights[name]) for name,(make,steps) in MODELS.items()}
    out = dict(machine=machine(), load_average=round(load, 2), seconds=round(time.perf_counter()-start),
               waited=round(args.patience-patience.left), kept=args.keep, batch=BATCH,
               models=models, processes=found)
    args.out.write_text(json.dumps(out, indent=1)+'\n')
    for n,times in found.items():
        for name,t in times.items():
            low,high = t['quartiles']
            print(f"{n} processes, {name}: {t['median']:.3f} ms (quartiles {low:.3f} and {high:.3f}), "
                  f"others used up to {t['others'][-1]} processors")
    print(f"{out['seconds']} s, {out['waited']} of them waiting; load average before {load:.2f}; written: {args.out}")

if __name__=='__main__': main()
