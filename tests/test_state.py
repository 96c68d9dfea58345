"""Nothing that a run goes on from may be lost: each entry of a checkpoint in turn is, and a comparison must see it.

Two small runs have all callbacks with a state between them. Each is stopped twice, in the middle of an epoch and as one
begins, and goes on from a file in which one entry is what a new run has there, or, where that is the same, another.
A third run is of two processes, whose states are in one file."""
import copy, hashlib, json, os, random, shutil, signal, sys, warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn, optim
from torch.utils import data as torch_data

import lesson9.progress
from lesson9.all import *
from lesson9.files import flatten, load_tensors, save_tensors, unflatten
from lesson9.minibatch import DataLoader
from lesson9.restore import learner_state, rng_state
from processes import Processes

class Killed(BaseException): pass

class Trace(Callback):
    "Note what a callback can see at each batch, and the random generators as the fit ends. It's the clock, too."
    saved,ticks = ('rows',),0.
    def __init__(self): self.rows,self.generators = [],None
    def after_batch(self):
        Trace.ticks += 1
        run = self.run
        self.rows.append([run.epoch, run.in_train, run.iter, run.iters, run.n_iter, run.n_epochs, run.loss.item()])
    def after_fit(self): self.generators = digest(rng_state(self.data))

class Freezer(Callback):
    "Freeze a weight, once."
    def after_batch(self):
        if self.n_iter==2: self.model[0].weight.requires_grad_(False)

class StopAt(Callback):
    "Stop: 'new' as a fit begins, 'middle' in its second epoch, 'begin' as the third begins, 'last' before it ends."
    order = Checkpoint.order + 1
    def __init__(self, where): self.where = where
    def begin_fit(self):
        if self.where=='new': signal.raise_signal(signal.SIGINT) # waits until Checkpoint has saved
    def after_epoch(self):
        if self.where=='begin' and self.epoch==1: signal.raise_signal(signal.SIGINT)
    def after_batch(self):
        if self.in_train and self.n_iter=={'middle': 6, 'last': 12}.get(self.where): raise Killed

class Shown(ProgressCallback):
    def plot_loss(self): pass # drawing takes long

class Mean:
    "A metric with a state."
    def __init__(self): self.reset()
    def reset(self): self.total,self.n = torch.zeros(()),0
    def update(self, pred, target): self.total,self.n = self.total+pred.float().mean(),self.n+1
    def compute(self): return self.total/self.n
    def state_dict(self): return {'total': self.total, 'n': self.n}
    def load_state_dict(self, state): vars(self).update(state)
    def merge_state(self, others):
        for other in others: self.total,self.n = self.total+other.total,self.n+other.n
        return self

class Writer:
    "In the place of TensorBoard's: its files are lines of JSON, and what isn't flushed is lost when the process is."
    def __init__(self, folder, purge_step=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.file  = folder/f"events.{len(list(folder.glob('events.*')))}"
        self.lines = [['', purge_step, None]]
        self.flush()
    def add_scalar(self, *line): self.lines.append(line)
    def flush(self): self.file.write_text('\n'.join(map(json.dumps, self.lines)))
    close = flush

def shown_by_tensorboard(folder):
    "The lines that it shows: a new writer hides those from a step on."
    shown = []
    for file in sorted(folder.rglob('events.*')):
        (_,purge,_),*lines = map(json.loads, file.read_text().split('\n'))
        shown = [line for line in shown if purge is None or line[2]<purge] + lines
    return sorted(shown)

class Shuffled(torch_data.Sampler):
    "An order drawn from all generators, one of its own among them."
    def __init__(self, n): self.n,self.generator = n,torch.Generator().manual_seed(1)
    def __len__(self): return self.n
    def __iter__(self):
        order = torch.randperm(self.n, generator=self.generator)[torch.randperm(self.n)].tolist()
        random.shuffle(order)
        return iter(np.random.permutation(order).tolist())

class Noisy(torch_data.Dataset):
    "Images with noise from all of them."
    def __init__(self, n, sampler):
        self.x,self.sampler = torch.randn(n, 16, generator=torch.Generator().manual_seed(n)),sampler
    def __len__(self): return len(self.x)
    def __getitem__(self, i):
        own = torch.rand((), generator=self.sampler.generator)
        return self.x[i]*(1 + 0.1*(own+torch.rand(())+random.random()+np.random.rand())),int(self.x[i, 0]>0)

class Stream:
    "A loader without a length."
    def __init__(self, dl): self.dl = dl
    def __iter__(self): return iter(self.dl)

def new(which):
    "The learner and the callbacks of a run; an epoch has four batches of four samples."
    for seed in random.seed,np.random.seed,torch.manual_seed: seed(0)
    n = 28 if which=='scaled' else 16 # the first has a StepsLoader
    sampler = Shuffled(n)
    dl    = torch_data.DataLoader(Noisy(n, sampler), 4, sampler=sampler)
    x     = torch.randn(8, 16)
    valid = DataLoader(Dataset(x, (x[:, 0]>0).long()), 8)
    model = nn.Sequential(nn.Linear(16, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 2))
    return dict(scaled=scaled, averaged=averaged, shared=shared)[which](dl, valid, model)

def scaled(dl, valid, model):
    groups = [{'params': model[:3].parameters()}, {'params': model[3:].parameters(), 'lr': 0.02}]
    learn  = Learner(model, optim.AdamW(groups, lr=0.05, amsgrad=True), F.cross_entropy,
                     DataBunch(StepsLoader(dl, 4), valid))
    return learn,[AvgStatsCallback(accuracy, log=None), Metrics(Mean()), Recorder('weight_decay'), CSVLogger('log.csv'),
                  ParamScheduler('lr', sched_cos(0.05, 0.01)), ParamScheduler('weight_decay', sched_lin(0.1, 0.2)),
                  DeviceCallback('cpu'), BatchTransform(RandomShift(1, (4, 4))), MixedPrecision(torch.float16),
                  GradientAccumulation(3), GradientClip(norm=1.), TerminateOnNaN(), Freezer(),
                  EarlyStopping(patience=2), SaveBest('best.safetensors'),
                  TensorBoardLogger('board')]

def averaged(dl, valid, model):
    opt   = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    learn = Learner(model, opt, F.cross_entropy, DataBunch(Stream(dl), Stream(valid)))
    steps,plateau = optim.lr_scheduler.ExponentialLR(opt, 0.9),optim.lr_scheduler.ReduceLROnPlateau(opt, patience=1)
    return learn,[Shown(accuracy, plot=True), ActivationStats(bins=3), EMACallback(0.5), Recorder(), Seed(3),
                  SchedulerCallback(steps, every='step'), SchedulerCallback(plateau, metric='seconds')]

def shared(dl, valid, model):
    learn = Learner(model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9), F.cross_entropy, DataBunch(dl, valid))
    return learn,[Distributed(timeout=60), AvgStatsCallback(accuracy, log=None), Metrics(Mean()), Recorder(),
                  ActivationStats(bins=3), CSVLogger('log.csv')]

def digest(state):
    tensors,plain = flatten(state)
    parts = [(k, str(t.dtype), t.reshape(-1).view(torch.uint8).numpy().tobytes())
             for k,t in tensors.items() if t.numel()]
    return hashlib.sha256(repr((parts, plain)).encode()).hexdigest()

# Times, which are of a clock that a new process has begun anew; the number of a hook; the rate of a batch before
OWN = 'start pass_start next_show next_draw hook_id rates'.split()

def plain_parts(cb):
    "What a callback holds, named in `saved` or not, as far as a file can hold it."
    for k in vars(cb).keys()-OWN:
        try: yield k,digest(vars(cb)[k])
        except TypeError: pass

def run_in(folder, which, stop=None, fits=(1, 3)):
    "Train in `folder`, up to a stop or the end: a digest of each part that must be equal, and what was said."
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    lines = []
    Checkpoint.ended.clear() # as in a process of its own
    learn,cbs = new(which)
    run = Runner([*cbs, trace := Trace(), Checkpoint('states', None, every=6 if stop else None, log=lines.append),
                  *([StopAt(stop)] if stop else [])])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try:
            for epochs in fits: run.fit(epochs, learn)
        except (Killed, KeyboardInterrupt): return None
    found = dict(learner=learner_state(learn), generators=trace.generators, board=shown_by_tensorboard(folder/'board'),
                 csv=[path.read_text() for path in folder.glob('*.csv')],
                 best=[load_tensors(path) for path in folder.glob('*.safetensors')])
    found = {name: digest(part) for name,part in found.items()}
    for name,cb in vars(run).items():
        if isinstance(cb, Callback) and not isinstance(cb, (Checkpoint, StopAt)):
            found |= {f'{name}.state': digest(cb.state_dict())} | {f'{name}.{k}': v for k,v in plain_parts(cb)}
    return found | {'said': digest([*lines, *(str(w.message) for w in said)])}

def newest(folder): return max((folder/'states').glob('*.safetensors'))
def read(folder): return unflatten(*load_tensors(newest(folder)))

STOPS = {'averaged': ['middle', 'last'], 'scaled': ['middle', 'begin']} # what one can't see, the next one may

@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Of each run: what is equal at the end of one that never stopped, a new state, and where it was stopped."
    base = tmp_path_factory.mktemp('runs')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base) # and back again at the end
        patch.setattr(lesson9.progress, 'perf_counter', lambda: Trace.ticks)
        patch.setattr(os, 'fsync', lambda handle: None) # no power fails here
        patch.setitem(sys.modules, 'torch.utils.tensorboard', SimpleNamespace(SummaryWriter=Writer))
        def prepared(which):
            folder = base/which
            folder.mkdir()
            for stop in ('middle', 'begin', 'last'): run_in(folder/stop, which, stop)
            run_in(folder/'new', which, 'new', fits=[3])
            run = SimpleNamespace(folder=folder, never=run_in(folder/'never', which), new=read(folder/'new'))
            run.usual = {stop: gone_on(run, which, stop) for stop in ('middle', 'begin', 'last')}
            return run
        yield {which: prepared(which) for which in STOPS}

def gone_on(run, which, stop, change=None, train=run_in):
    "What is there at the end, if it goes on from a file that was changed."
    folder = run.folder/'again'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run.folder/stop, folder)
    if change:
        state = read(folder)
        change(state)
        save_tensors(newest(folder), *flatten(state))
    return train(folder, which)

def differ(a, b): return [k for k in a | b if a.get(k)!=b.get(k)]

@pytest.mark.parametrize('which, stop', [('scaled', 'middle'), ('scaled', 'begin'), ('scaled', 'last'),
    ('averaged', 'middle'), ('averaged', 'begin'), ('averaged', 'last')])
def test_nothing_lost(runs, which, stop):
    "A run that was stopped ends as one that never was; only the latter has nothing to say."
    assert differ(runs[which].never, runs[which].usual[stop])==['said']

def entries(x, path=()):
    "Paths to all values in dicts, and in lists of dicts."
    whole  = path[-1:] in (('history',), ('grads',))
    listed = isinstance(x, list) and (path==('loaders',) or any(isinstance(v, dict) for v in x))
    inside = () if whole else x.items() if isinstance(x, dict) else enumerate(x) if listed else ()
    if not inside: yield path
    for k,v in inside: yield from entries(v, (*path, k))

def named(path):
    "One name for an entry of all weights, biases, parameters or groups of parameters."
    if path[:2]==('learner', 'tensors'): return f"learner.tensors.*.{path[2].rpartition('.')[2]}"
    many = path[:2]==('learner', 'opt')
    return '.'.join('*' if many and i==3 else str(k) for i,k in enumerate(path))

def other(x):
    "Zero, or what is like it; if it's that already, something else."
    if isinstance(x, torch.Tensor): return torch.zeros_like(x) if x.any() else torch.ones_like(x)
    if isinstance(x, (list, tuple)): return type(x)(map(other, x)) if len(x) else type(x)([0])
    if isinstance(x, dict): return {'planted': 0}
    if isinstance(x, np.ndarray): return np.zeros_like(x)
    return {bool: not x, type(None): 0}.get(type(x), type(x)() if x else 1)

def lose(state, path, new):
    "Change `state`: at `path` it has what `new` has there, which may be nothing."
    *most,last = path
    box = state
    for k in most: box = box[k]
    try:
        for k in path: new = new[k]
    except (KeyError, IndexError, TypeError): new = box[last] # a new run has nothing there
    box[last] = new if digest(new)!=digest(box[last]) else other(box[last])

# What no comparison can see, and why
UNSEEN = {
    'run.last': 'the number of the last epoch, of a fit that is over',
    'learner.opt.param_groups.*.foreach': 'how a step is computed: the way of the optimiser that is there stays',
    'learner.opt.param_groups.*.fused': 'as foreach',
    'learner.opt.param_groups.*.capturable': 'as foreach',
    'learner.opt.param_groups.*.decoupled_weight_decay': 'AdamW sets it itself',
    'callbacks.save_best.passed': 'set as each epoch ends, and read as the fit does',
    'callbacks.ema.weights': 'empty in a fit, and made anew as validation begins',
    'callbacks.scheduler_2.scheduler._last_lr': 'set as each epoch ends, for those who look',
    'callbacks.scheduler_2.scheduler.mode_worse': 'used only as a plateau scheduler is made',
    'loaders.0.again': 'whether there were persistent workers, and here are none',
    'loaders.0': 'None: this loader has no state', # of the run `averaged`
    'loaders.1': 'None: this loader has no state'}

# What makes no difference to the training, only to what is said
SAID = {'fit', 'run.epochs', 'callbacks.save_best.unknown'} # and all of `made_with`

@pytest.mark.parametrize('part', 'fit run parts learner modes callbacks made_with generators loaders'.split())
def test_each_entry_is_needed(runs, part):
    "Without any one entry the run goes on otherwise, with an error or with other numbers: each is lost in turn."
    seen = {}
    for which,run in runs.items():
        for stop in STOPS[which]:
            paths = {}
            for path in entries(read(run.folder/stop)):
                if path[0]==part and not seen.get(named(path)): paths.setdefault(named(path), []).append(path)
            for name in paths:
                def change(state):
                    for path in paths[name]: lose(state, path, copy.deepcopy(run.new))
                try: seen[name] = differ(run.usual[stop], gone_on(run, which, stop, change))
                except Exception as e: seen[name] = [type(e).__name__]
    print(*(f"{name}: {', '.join(how) or '-'}" for name,how in seen.items()), sep='\n')
    assert {name for name,how in seen.items() if not how}=={name for name in UNSEEN if name.split('.')[0]==part}
    said = seen.keys() if part=='made_with' else {name for name in SAID if name.split('.')[0]==part}
    assert {name for name,how in seen.items() if how==['said']}==said

# Two processes

def in_both(folder, which, *args):
    "As `run_in`, of two processes: what is equal at the end, by rank."
    ranks = Processes(2, run_in, folder, which, *args).results(timeout=120)
    return {f'{rank} {k}': v for rank,found in enumerate(ranks) for k,v in (found or {}).items()}

@pytest.fixture(scope='module')
def shared_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('shared')
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(os, 'fsync', lambda handle: None)
        new('averaged') # PyTorch imports a lot for the first optimiser: here, and not in each process
        for stop,fits in ('middle', (1, 3)), ('new', [3]): in_both(folder/stop, 'shared', stop, fits)
        run = SimpleNamespace(folder=folder, never=in_both(folder/'never', 'shared'), new=read(folder/'new'))
        run.usual = gone_on(run, 'shared', 'middle', train=in_both)
        yield run

def test_nothing_lost_in_two_processes(shared_run):
    "One of two processes has nothing to say, and a logger that reads the file once, as it's made."
    assert differ(shared_run.never, shared_run.usual)==['0 said', '1 csv_logger.rows']

def test_each_entry_of_two_processes_is_needed(shared_run):
    state,seen = read(shared_run.folder/'middle'),{}
    assert {name for name,kept in state['others'][0].items() if kept}=={
        'distributed', 'avg_stats', 'metrics', 'activation_stats'} # the others are the same in both
    paths = [path for path in entries(state) if path[0]=='others' or path[:2]==('callbacks', 'distributed')]
    for path in paths:
        def change(state): lose(state, path, copy.deepcopy(shared_run.new))
        try: seen[named(path)] = differ(shared_run.usual, gone_on(shared_run, 'shared', 'middle', change, in_both))
        except AssertionError as e: seen[named(path)] = [str(e).rstrip().split('\n')[-1]]
    print(*(f"{name}: {', '.join(how) or '-'}" for name,how in seen.items()), sep='\n')
    assert len(seen)>10
    assert {name for name,how in seen.items() if not how}=={'others.0.activation_stats.found'} # set again at once
