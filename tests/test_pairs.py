"""Every pair of callbacks together: the order in which they are listed doesn't matter, callbacks that only look change
nothing and see everything, and what can't be right is refused with a reason. In two processes, with all weights in each
and with a part of them, each callback trains as in one, or is refused, too. And after a fit, nothing of model, batches
or hooks is left.

`python tests/test_pairs.py` prints the table of pairs."""
import contextlib, gc, io, itertools, weakref

import numpy as np, pytest, torch, torch.nn.functional as F
import torcheval.metrics
from torch import nn, optim

from lesson9.all import *
from lesson9.minibatch import DataLoader
from lesson9.shard import whole
from lesson9.shared import rank_zero_only
from processes import Processes

SMALL = Dataset(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)), torch.arange(40)%10)

def all_callbacks(folder, numbers=itertools.count()):
    "One of each callback of the library: those that only look, and those that change the training."
    looks = [AvgStatsCallback(accuracy, log=None), ProgressCallback(accuracy), Recorder(), ActivationStats(),
             Metrics(f1=torcheval.metrics.MulticlassF1Score()), SaveBest(folder/f'{next(numbers)}', 'train_loss'),
             TerminateOnNaN(2), CSVLogger(folder/f'{next(numbers)}.csv'), TensorBoardLogger(folder/'pair'),
             DeviceCallback('cpu'), EMACallback(0.9), Profile(), LoopTrace(), CheckFinite(),
             Checkpoint(folder/f'{next(numbers)}', log=None), Distributed()]
    changes = [EarlyStopping('train_loss', 'max'), ParamScheduler('lr', sched_lin(0.1, 0.5)), GradientAccumulation(2),
               GradientClip(norm=0.1), BatchTransform(RandomShift(2, (4,4))), Seed(3), LRFinder(n=10),
               MixedPrecision(torch.bfloat16), Compile(backend='eager', dynamic=False),
               CudaGraph(warmup=1, capture=GraphCapture)]
    return looks,changes

def saw_all(cb, run, epochs):
    "Whether a callback that looks has recorded each batch, or each epoch that was finished."
    if isinstance(cb, Recorder): return len(cb.losses)==run.n_iter # TensorBoardLogger is one, too
    if isinstance(cb, ActivationStats): return [len(s) for s in cb.outs+cb.grads]==[run.n_iter]*4 # two layers
    if isinstance(cb, SaveBest): return cb.best==min(row['train_loss'] for row in epochs)
    if isinstance(cb, CSVLogger): return len(cb.rows)==len(epochs)
    if isinstance(cb, Profile): return cb.batches==run.n_iter
    if isinstance(cb, LoopTrace): return cb.steps[0].event=='begin_fit' and cb.steps[-1].event=='after_fit'
    return len(getattr(cb, 'history', epochs))==len(epochs)

def with_averages(cbs):
    "The callbacks, with one that measures the loss: EarlyStopping and SaveBest need it."
    return cbs if any(isinstance(cb, AvgStatsCallback) for cb in cbs) else [AvgStatsCallback(log=None), *cbs]

def small_model(): return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 10))

class Pairs:
    "Short fits with any of the callbacks, given by their numbers."
    def __init__(self, folder):
        self.folder = folder
        looks,changes = all_callbacks(folder)
        self.names   = [type(cb).__name__ for cb in looks+changes]
        self.n_looks = len(looks)

    def make(self, which): return [sum(all_callbacks(self.folder), [])[i] for i in which]

    def train(self, *which, distributed=None):
        "The weights after three epochs, as bytes; or what refused the callbacks; or which of them missed something."
        cbs = self.make(which)
        torch._dynamo.reset() # forget what was compiled before
        torch.manual_seed(0)
        model = small_model()
        data  = DataBunch(DataLoader(SMALL, 8, shuffle=True), DataLoader(SMALL, 20), c=10)
        learn = Learner(model, optim.SGD(model.parameters(), lr=0.3, momentum=0.9), F.cross_entropy, data)
        run = Runner(with_averages(cbs) + ([distributed] if distributed else []))
        measuring = next(cb for cb in run.cbs if isinstance(cb, AvgStatsCallback))
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()): run.fit(3, learn)
        except ValueError as e: return str(e)
        self.rows = [{k: v for k,v in row.items() if k!='seconds'} for row in measuring.history]
        idle    = distributed and distributed.rank # of rank 0 alone are some
        looking = [cb for i,cb in zip(which, cbs) if i<self.n_looks and not (idle and rank_zero_only(cb))]
        missed  = [type(cb).__name__ for cb in looking if not saw_all(cb, run, measuring.history)]
        assert type(run) is Runner # also after a LoopTrace
        if missed: return f"{' and '.join(missed)} missed something"
        return b''.join(p.detach().numpy().tobytes() for p in whole(list(model.parameters())))

    def order(self, *which): return [type(cb) for cb in Runner(self.make(which)).cbs]

    def verdict(self, i, j, alone):
        "'fine', or what is wrong with a pair of callbacks. They train a second time if a Runner would swap them."
        both = self.train(i, j)
        if not isinstance(both, bytes): return both
        if self.order(i, j)!=self.order(j, i) and both!=self.train(j, i):
            return 'the order in which they are listed matters'
        changed = (i<self.n_looks and both!=alone[j]) or (j<self.n_looks and both!=alone[i])
        if changed: return 'looking changed the training'
        return 'fine'

    def run(self):
        "Verdicts by pairs of names, and what each callback does alone."
        numbers = range(len(self.names))
        alone = [self.train(i) for i in numbers]
        pairs = itertools.combinations(numbers, 2)
        verdicts = {(self.names[i], self.names[j]): self.verdict(i, j, alone) for i,j in pairs}
        return verdicts, dict(zip(self.names, alone))

    def fits(self, **settings):
        "What each callback does, one after the other; in several processes if there are `settings` for `Distributed`."
        for i,name in enumerate(self.names):
            if settings and name=='Distributed': continue # it is there already
            distributed,self.rows = Distributed(timeout=60, **settings) if settings else None,None
            yield name,(self.train(i, distributed=distributed), self.rows)

    def both_ways(self): return dict(self.fits(shard=False)),dict(self.fits(shard=True))

    def in_processes(self):
        "Two dicts of verdicts by names, of two processes: each with all weights, each with a part of them."
        import torch.distributed.fsdp # here, so that the processes don't have to
        torch.set_num_threads(1)
        alone,ranks = dict(self.fits()),Processes(2, self.both_ways).results(timeout=300)
        return [{name: self.as_alone(name, alone[name], [rank[name] for rank in found]) for name in found[0]}
                for found in zip(*ranks)]

    def as_alone(self, name, alone, found):
        "'fine', or how the results of two processes differ from those of one."
        first,second = found
        if first!=second: return f'the processes differ: {first}, {second}'
        weights,rows = first
        if not isinstance(weights, bytes): return weights
        near  = 1e-2 if name=='MixedPrecision' else 1e-5 # bfloat16 has 8 bits, and each process rounds its gradients
        same  = np.allclose(*(np.frombuffer(w, np.float32) for w in (weights, alone[0])), rtol=near, atol=near)
        same &= [list(row) for row in rows]==[list(row) for row in alone[1]]
        pairs = [(a[k], b[k]) for a,b in zip(rows, alone[1]) for k in a]
        return 'fine' if same and all(np.isclose(a, b, near, near) for a,b in pairs) else 'trains as no single process'

@pytest.fixture(scope='module')
def pairs(tmp_path_factory): return Pairs(tmp_path_factory.mktemp('pairs'))

REFUSED = {(a, 'CudaGraph') for a in ('ActivationStats', 'Metrics', 'GradientAccumulation', 'GradientClip')}
REFUSED |= {('ActivationStats', 'Compile'), ('AvgStatsCallback', 'ProgressCallback'), # these two measure the same
            ('Checkpoint', 'LRFinder'), ('CheckFinite', 'LRFinder')}

def test_each_callback_is_here(pairs):
    import lesson9.all as package
    everything = {name: getattr(package, name) for name in package.__all__}
    found = {name for name,cls in everything.items() if isinstance(cls, type) and issubclass(cls, Callback)}
    bases  = {'Callback', 'HistoryCallback', 'HooksCallback', 'Best'}
    others = {'TrainEvalCallback', 'SchedulerCallback'} # is in every Runner; is made for one optimiser
    assert set(pairs.names)==found-bases-others

def test_pairs(pairs):
    torch.set_num_threads(1)
    verdicts,alone = pairs.run()
    looks = pairs.names[:pairs.n_looks]
    assert all(alone[name]==pairs.train() for name in looks) # callbacks that look change nothing
    idle = {name for name in pairs.names[pairs.n_looks:] if alone[name]==alone[looks[0]]}
    assert idle <= {'Compile', 'CudaGraph'} # the others change the training; these two only make it faster
    not_fine = {pair: said for pair,said in verdicts.items() if said!='fine'}
    assert set(not_fine)==REFUSED, not_fine
    assert all('cannot be used with' in said or 'both measure' in said for said in not_fine.values())

REFUSED_SHARDED = {'CudaGraph', 'EMACallback', 'CheckFinite', 'LRFinder', 'Compile'}

def test_in_two_processes(pairs):
    for found,refused in zip(pairs.in_processes(), ({'CudaGraph'}, REFUSED_SHARDED)):
        assert found.keys()==set(pairs.names)-{'Distributed'}
        assert found.pop('BatchTransform')=='trains as no single process' # random shifts: each process draws its own
        not_fine = {name: said for name,said in found.items() if said!='fine'}
        assert set(not_fine)==refused, not_fine
        assert all(f'{name} cannot be used with Distributed' in said for name,said in not_fine.items())

class FreshBatches:
    "A loader whose batches are new tensors each time, with weak references to all of them."
    def __init__(self): self.refs = []
    def __len__(self): return 5
    def __iter__(self):
        for xb,yb in DataLoader(SMALL, 8):
            xb,yb = xb.clone(),yb.clone()
            self.refs += [weakref.ref(xb), weakref.ref(yb)]
            yield xb,yb
            del xb,yb

class FailsLate(Callback):
    "Raises in the seventh batch, after all other callbacks."
    order = Seed.order + 1000
    def after_batch(self):
        if self.n_iter==7: raise ZeroDivisionError()

def train_and_drop(cbs):
    "Train; drop model and data; return the Runner, weak references to all of them, and the number of hooks left."
    torch._dynamo.reset()
    model,batches = small_model(),FreshBatches()
    opt   = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    learn = Learner(model, opt, F.cross_entropy, DataBunch(batches, DataLoader(SMALL, 20), c=10))
    run   = Runner(with_averages(cbs))
    printed = io.StringIO()
    with (contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed),
          contextlib.suppress(ZeroDivisionError)):
        run.fit(2, learn)
    hooks = sum(len(m._forward_hooks)+len(m._backward_hooks) for m in model.modules())
    return run,[weakref.ref(model), *map(weakref.ref, model.parameters()), *batches.refs],hooks

@pytest.mark.filterwarnings('ignore:the search ended')
def test_nothing_is_left_behind(pairs):
    kept = {(name, fails): train_and_drop([*pairs.make([i]), *([FailsLate()] if fails else [])])
            for i,name in enumerate(pairs.names) for fails in (False, True)}
    gc.collect()
    left = {case: sum(ref() is not None for ref in refs)+hooks for case,(run,refs,hooks) in kept.items()}
    assert {case: n for case,n in left.items() if n}=={}
    assert min(len(refs) for _,refs,_ in kept.values())>10 # there was something to watch

if __name__ == '__main__':
    import tempfile
    from pathlib import Path
    with tempfile.TemporaryDirectory() as folder:
        together = Pairs(Path(folder))
        verdicts,_ = together.run()
        columns = dict(zip(['in two processes', 'with a part of the weights in each of two'], together.in_processes()))
    for pair,said in verdicts.items():
        if said!='fine': print(' and '.join(pair)+':', said)
    print(f"{sum(said=='fine' for said in verdicts.values())} of {len(verdicts)} pairs are fine")
    for column,found in columns.items():
        for name,said in found.items():
            if said!='fine': print(f'{name} {column}:', said)
        print(f"{sum(said=='fine' for said in found.values())} of {len(found)} callbacks are fine {column}")
