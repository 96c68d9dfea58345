"""What `Distributed` promises. Processes are forks, which start fast: each start does many checks."""
import atexit, csv, math, os, re, signal, sys, time, warnings

import numpy as np, pytest

if not hasattr(os, 'fork'): pytest.skip('needs forks: Linux or macOS', allow_module_level=True)
os.environ['OMP_NUM_THREADS'] = '1'
import torch
torch.set_num_threads(1) # a process with several threads can't be forked
import torch.nn.functional as F
from torch import Tensor, nn, optim
from torch.utils import data as torch_data

from lesson9.all import *
from lesson9.minibatch import SGD, DataLoader
from lesson9.ranks import launched
from lesson9.restore import learner_state
from lesson9.shard import whole
from lesson9.weights import read_model
from processes import Processes

rng = torch.Generator().manual_seed(0)
X = torch.randn(73, 12, generator=rng, dtype=torch.float64)
Y = (X[:,:5] + 0.3*torch.randn(73, 5, generator=rng)).argmax(1)

@pytest.fixture(scope='module', autouse=True)
def imported():
    "What is imported at the first use, before there are forks."
    import torch.distributed.fsdp, torch.distributed.tensor, torcheval.metrics, torchmetrics.classification # noqa: F401
    learn = new_learner()
    Runner().fit(1, learn)
    yield

# What is trained, alone or in each process

def new_loaders(n=73, bs=16, kind='ours', n_valid=33, dtype=torch.float64):
    "Of `n` samples: 73 leave 9 for the last batch, 65 leave 1. The last batch of the validation has 1, too."
    train_ds,valid_ds = Dataset(X[:n].to(dtype), Y[:n]),Dataset(X[:n_valid].to(dtype), Y[:n_valid])
    if kind=='ours': return get_dls(train_ds, valid_ds, bs)
    train_dl = torch_data.DataLoader(train_ds, bs, shuffle=True)
    valid_dl = torch_data.DataLoader(valid_ds, 2*bs)
    if kind=='rank': return RankLoader(train_dl),RankLoader(valid_dl)
    return train_dl,valid_dl

def new_learner(loaders=None, dropout=0., opt='sgd', dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 21), nn.Tanh(), nn.Dropout(dropout), nn.Linear(21, 5)).to(dtype)
    opts = dict(sgd=lambda p: SGD(p, lr=0.3, momentum=0.9), adam=lambda p: optim.AdamW(p, lr=0.01))
    train_dl,valid_dl = loaders or new_loaders(dtype=dtype, **kwargs)
    return Learner(model, opts[opt](param_groups(model)), F.cross_entropy, DataBunch(train_dl, valid_dl, 5))

class Counts(Callback):
    "How many samples each pass had: integers."
    order = AvgStatsCallback.order - 1
    saved = 'n',
    def __init__(self): self.n = []
    def after_epoch(self): self.n.append((self.run.avg_stats.train_stats.count, self.run.avg_stats.valid_stats.count))

def several(): return [Distributed(timeout=30)] if launched() else []
def grouped(n): return [GradientAccumulation(n)] if n else []
def usual(): return [AvgStatsCallback(accuracy, log=None), Recorder(), Counts()]

def result(run, learn):
    "All that has to be equal, as plain values and tensors."
    weights = [p.detach().clone() for p in learn.model.parameters()]
    return dict(weights=weights, history=run.avg_stats.history, losses=run.recorder.losses,
                rates=run.recorder.params['lr'], n=run.counts.n, n_iter=run.n_iter)

def fitted(cbs=(), epochs=2, learn=None, **kwargs):
    learn = learn or new_learner(**kwargs)
    run = Runner([*usual(), *cbs, *several()])
    run.fit(epochs, learn)
    return result(run, learn)

# Comparing

def distance(a, b):
    "The largest difference between numbers at the same places of two nestings; infinite if anything else differs."
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if (a.shape, a.dtype)!=(b.shape, b.dtype): return math.inf
        return (a.double()-b.double()).abs().max().item() if a.numel() else 0.
    if isinstance(a, dict) and isinstance(b, dict) and a.keys()==b.keys():
        return max([0, *(distance(a[k], b[k]) for k in a)])
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)) and len(a)==len(b):
        return max([0, *map(distance, a, b)])
    if isinstance(a, float) and isinstance(b, float): return 0. if a==b or a!=a and b!=b else abs(a-b)
    return 0. if type(a) is type(b) and not isinstance(a, (dict, list, tuple)) and a==b else math.inf

def alike(results):
    "Check that all ranks have the same, bit for bit; return it."
    for other in results[1:]: assert distance(results[0], other)==0
    return results[0]

# Equal to one process

CASES = [dict(n=n, accumulate=a, kind=k) for n in (73, 65) for a in (0, 3) for k in ('ours', 'torch', 'rank')]
FEWER = CASES[0],CASES[5],CASES[8],CASES[9] # each value of each setting at least once

def measured(n, accumulate, kind):
    "A fit with metrics of two libraries, whose numbers aren't means over batches; then a validation and predictions."
    from torcheval.metrics import MulticlassF1Score
    from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix
    learn = new_learner(n=n, kind=kind)
    metrics = Metrics(f1=MulticlassF1Score(num_classes=5, average='macro'), auroc=MulticlassAUROC(5),
                      counts=MulticlassConfusionMatrix(5))
    warnings.filterwarnings('ignore', 'Some classes do not exist')
    warnings.filterwarnings('ignore', 'No (positive|negative) samples')
    cbs = [*usual(), metrics, *grouped(accumulate), *several()]
    run = Runner(cbs)
    run.fit(2, learn)
    found = result(run, learn) | dict(metrics=metrics.history, valid=run.validate(learn, metrics=accuracy))
    return found,run.get_preds(learn),run.get_preds(learn, with_loss=True, with_inputs=True)

def all_measured(cases):
    found = [measured(**case) for case in cases]
    if not launched(): return found
    run = Runner(Distributed(all_preds=True))
    return found,run.get_preds(learn := new_learner()),run.get_preds(learn, learn.data.train_dl)[1]

@pytest.mark.parametrize(('size', 'cases'), [(2, CASES), (4, FEWER)])
def test_equals_one_process(size, cases):
    alone = all_measured(cases)
    ranks = Processes(size, all_measured, cases).results()
    for i,case in enumerate(cases):
        (found,preds,more),*others = [found[i] for found,*_ in ranks]
        assert distance(found, alone[i][0])<1e-12, case # float64, and counts that are equal
        assert distance(preds, alone[i][1])<1e-12, case
        assert distance(more, alone[i][2])<1e-12, case
        for theirs,nothing,nothing_more in others:
            assert distance(theirs, found)==0, case
            assert nothing==(None, None) and nothing_more==(None,)*4, case
    expected = Runner().get_preds(learn := new_learner())
    for _,preds,targets in ranks:
        assert distance(preds, expected)<1e-12 # with `all_preds`, on all
        assert sorted(targets.tolist())==sorted(Y.tolist()) and not torch.equal(targets, Y) # as they were shuffled
    assert torch.equal(learn.data.valid_ds.y, expected[1])

def even(dtype, bs=16, accumulate=0):
    return fitted(grouped(accumulate), epochs=3, n=64, bs=bs, dtype=dtype, opt='adam')

def test_even_batches_bit_for_bit():
    "The parts of a batch, one after the other in one process, give the same gradients to the last bit."
    types = torch.float32,torch.float64
    ranks = Processes(2, lambda: [even(dtype) for dtype in types]).results()
    for i,dtype in enumerate(types):
        parts,found = even(dtype, bs=8, accumulate=2),alike([r[i] for r in ranks])
        assert distance(found['weights'], parts['weights'])==0
        assert found['n']==parts['n'] # the averages are added up in another order

# Callbacks
class Kept(Callback):
    "Keep what is computed from a batch, by rank."
    def __init__(self): self.masks,self.norms = [],[]
    order = GradientClip.order + 1
    def after_backward(self):
        self.norms.append(torch.stack([p.grad.norm() for p in self.model.parameters()]).norm().item())

def clipped():
    "The norm of all gradients, and not of a rank's."
    kept = Kept()
    return fitted([GradientClip(norm=0.05), kept]),kept.norms

def grouped_and_clipped():
    kept = Kept()
    return fitted([GradientAccumulation(3), GradientClip(norm=0.05), kept]),kept.norms

def stopped():
    learn = new_learner()
    stop  = EarlyStopping('valid_loss', patience=1, min_delta=0.2)
    found = fitted([stop], 9, learn)
    assert 1<found['n_iter']<45
    return found,stop.best,stop.best_epoch

def averaged_weights():
    learn,ema = new_learner(),EMACallback(0.9)
    return fitted([ema], 2, learn),ema.averages,ema.n_averaged,Runner([ema, *several()]).validate(learn)

def scheduled():
    learn = new_learner(opt='adam')
    sched = SchedulerCallback(optim.lr_scheduler.OneCycleLR(learn.opt, 0.05, total_steps=10), every='step')
    return fitted([sched], 2, learn)

def follows_a_metric():
    learn = new_learner(opt='adam')
    plateau = optim.lr_scheduler.ReduceLROnPlateau(learn.opt, patience=0, threshold=0.5)
    return fitted([SchedulerCallback(plateau, metric='valid_loss')], 3, learn)

def cosine(): return fitted([ParamScheduler('lr', sched_cos(0.3, 0.01)), GradientClip(value=0.01)])

def searched():
    learn = new_learner(n=73)
    before = [p.clone() for p in learn.model.parameters()]
    found = lr_find(learn, several(), n=40)
    assert distance(before, list(map(Tensor.detach, learn.model.parameters())))==0
    return found.lrs,found.losses

def compiled(): return fitted([Compile(backend='eager')], 1)
def on_device(): return fitted([DeviceCallback('cpu')])
def seeded():
    learn = new_learner()
    torch.manual_seed(7) # the fit begins alike whatever was drawn before
    return fitted([Seed(3)], 2, learn)

def frozen():
    learn = new_learner()
    freeze(learn, 1)
    first = fitted(learn=learn)
    freeze(learn, 0)
    return first,fitted([GradientAccumulation(2)], learn=learn)

def unfrozen_in_a_fit():
    class Unfreeze(Callback):
        def begin_epoch(self): freeze(self.learn, int(self.epoch==0))
    return fitted([Unfreeze()])

def other_on_rank_1():
    "Numbers that only one rank has drawn, or other weights than rank 0's, change nothing."
    other,learn = os.environ.get('RANK')=='1',new_learner()
    if other: torch.rand(7)
    found,learn = fitted(learn=learn),new_learner()
    if other:
        with torch.no_grad(): learn.model[0].weight.add_(1)
    return found,Runner(several()).validate(learn)

def steps_loader():
    train_dl,valid_dl = new_loaders()
    return fitted(epochs=3, learn=new_learner((StepsLoader(train_dl, 7), StepsLoader(valid_dl, 1, restart=True))))

def steps_of_rank_loader():
    train_dl,valid_dl = new_loaders(kind='rank')
    return fitted([GradientAccumulation(3)], epochs=3, learn=new_learner((StepsLoader(train_dl, 7), valid_dl)))

def prefetched():
    train_dl,valid_dl = new_loaders(n=65, kind='rank')
    return fitted(learn=new_learner((Prefetch(train_dl, 'cpu'), Prefetch(valid_dl, 'cpu'))))

def on_device_loader():
    train_dl,valid_dl = (DeviceLoader(dl.ds, 16, shuffle, 'cpu') for dl,shuffle in zip(new_loaders(), (True, False)))
    return fitted(learn=new_learner((train_dl, valid_dl)))

def one_cycle():
    learn = new_learner(opt='adam')
    run = fit_one_cycle(2, learn, 0.02, accuracy, [*several(), *usual()[1:2]], progress=False)
    return run.avg_stats.history,run.recorder.losses,learner_state(learn)['opt']['param_groups'][0]['lr']

def no_validation():
    learn = new_learner()
    learn.data.valid_dl = None
    return fitted(learn=learn)

def nan_in_the_last_part():
    "In one batch, only the last rank's outputs aren't finite."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        found = fitted([TerminateOnNaN(every=1), Broken(batch=6)], 3, n=64)
    return found['n'],len(found['losses']),[str(w.message) for w in seen if 'loss' in str(w.message)]

class Broken(Callback):
    "In a batch, the last rank's part of the data is broken."
    def __init__(self, batch): self.batch = batch
    def after_pred(self):
        last = int(os.environ.get('RANK', '0'))==int(os.environ.get('WORLD_SIZE', '1'))-1
        if last and self.in_train and self.n_iter==self.batch: self.run.pred = self.pred*math.nan

ALIKE = [clipped, grouped_and_clipped, stopped, averaged_weights, scheduled, follows_a_metric, cosine, searched,
         compiled, on_device, seeded, frozen, unfrozen_in_a_fit, other_on_rank_1, steps_loader, steps_of_rank_loader,
         prefetched, on_device_loader, one_cycle, no_validation, nan_in_the_last_part]

def all_alike(): return [f() for f in ALIKE]

def test_callbacks_and_loaders():
    "What other callbacks and loaders do is the same as in one process, and the same on all ranks."
    alone = all_alike()
    for f,expected,*found in zip(ALIKE, alone, *Processes(2, all_alike).results(), strict=True):
        assert distance(alike(found), expected)<(1e-10 if f in (searched,) else 1e-12), f.__name__

def half_precision():
    "In bfloat16, sums of other parts are rounded otherwise: equal on all ranks, and near to one process."
    return fitted([MixedPrecision(torch.bfloat16)], dtype=torch.float32)

def layer_statistics():
    "Each rank looks at the outputs of its own part."
    stats = ActivationStats()
    fitted([stats], 1, n=64)
    return stats.means

def masked():
    learn,masks = new_learner(dropout=0.5, n=64),[]
    learn.model[2].register_forward_hook(lambda m, x, y: masks.append(y[0]!=0) if m.training else None)
    found = fitted(learn=learn)
    return found,torch.stack(masks),torch.rand(3)

def one_by_one(): return half_precision(),layer_statistics(),masked()

def test_what_ranks_have_of_their_own():
    alone = one_by_one()
    one,two = Processes(2, one_by_one).results()
    assert distance(one[0], two[0])==0<distance(one[0], alone[0])<0.05
    assert torch.allclose(torch.stack([(a+b)/2 for a,b in zip(one[1][0], two[1][0])]), alone[1][0], atol=1e-6)
    assert not torch.equal(one[1][0], two[1][0])
    (fit,masks,after),(other,others,after_other) = one[2],two[2]
    assert distance(fit, other)==0 and torch.equal(after, after_other) # the same numbers between batches
    assert len({tuple(mask.tolist()) for mask in (*masks, *others)})==len(masks)+len(others)==16 # all differ

# What is printed and written

def logged(folder):
    "Everything that prints or writes."
    folder = folder/('several' if launched() else 'alone')
    folder.mkdir(exist_ok=True)
    cbs = [AvgStatsCallback(accuracy), Recorder(), EarlyStopping(patience=9), SaveBest(folder/'best.safetensors'),
           CSVLogger(folder/'log.csv'), TensorBoardLogger(folder/'board'),
           Checkpoint(folder/'run', seconds=None, every=2), *several()]
    Runner(cbs).fit(2, new_learner())
    Runner(cbs).fit(3, new_learner())
    Runner([ProgressCallback(accuracy), *several()]).fit(2, new_learner())
    return cbs[0].history,cbs[1].losses,cbs[2].best,cbs[2].best_epoch

def contents(folder):
    from tensorboard.backend.event_processing import event_accumulator
    board = event_accumulator.EventAccumulator(str(folder/'board')).Reload()
    scalars = {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()['scalars']}
    rows = [{k: float(v) for k,v in row.items()} for row in csv.DictReader(open(folder/'log.csv', newline=''))]
    about,weights = read_model(folder/'best.safetensors')
    files = sorted(re.sub(r'tfevents.*', 'tfevents', str(path.relative_to(folder))) for path in folder.rglob('*.*'))
    return scalars,rows,about['epoch'],about['value'],dict(weights),files

def test_only_rank_0_prints_and_writes(tmp_path, capfd):
    alone = logged(tmp_path)
    printed = capfd.readouterr().out
    processes = Processes(2, logged, tmp_path)
    assert distance(alike(processes.results()), alone)<1e-12
    expected,found = contents(tmp_path/'alone'),contents(tmp_path/'several')
    assert len(expected[0]['batch/loss'])==25 and distance(found, expected)<1e-6 # TensorBoard's are in float32
    assert distance(found[1:], expected[1:])<1e-12
    def numberless(text): return re.sub(r'\d+\.\d\d\b', 'seconds', text)
    assert numberless(processes.output(0))==numberless(printed)!=''
    assert processes.output(1)==''

# Checkpoints

class Stop(Callback):
    "End the fit with an error as a moment comes: `(event, epoch, batch, whether in training)`."
    order = Checkpoint.order + 1
    def __init__(self, moment): self.moment = moment
    def passed(self, event):
        if (event, self.run.epoch, self.run.iter, self.run.in_train)==self.moment: raise Stopped
    def begin_batch(self): self.passed('begin_batch')
    def after_batch(self): self.passed('after_batch')
    def after_epoch(self): self.passed('after_epoch')

class Stopped(Exception): pass

def resumed(folder, moment=None, accumulate=0, dropout=0.3, every=1, shard=False, ema=True, progress=False):
    "A fit that goes on from its checkpoint; up to a moment, at which it returns None."
    from torcheval.metrics import MulticlassF1Score
    from torchmetrics.classification import MulticlassAUROC, MulticlassConfusionMatrix
    warnings.filterwarnings('ignore', '.*(made with other settings|Some classes|samples in targets).*')
    learn = new_learner(dropout=dropout, opt='adam')
    metrics = Metrics(f1=MulticlassF1Score(num_classes=5, average='macro'), auroc=MulticlassAUROC(5),
                      counts=MulticlassConfusionMatrix(5))
    average = ProgressCallback(accuracy) if progress else AvgStatsCallback(accuracy, log=None)
    cbs = [average, Recorder(), metrics, *grouped(accumulate), Stop(moment), *([EMACallback(0.9)] if ema else []),
           Distributed(timeout=30, shard=shard)]
    if folder: cbs.append(Checkpoint(folder, seconds=None, every=every, log=None))
    run = Runner(cbs)
    try: run.fit(3, learn)
    except Stopped: return None
    state = whole(learner_state(learn))
    history = [{k: v for k,v in row.items() if k!='seconds'} for row in average.history]
    return dict(weights=state['tensors'], opt=state['opt']['state'], losses=run.recorder.losses, history=history,
                metrics=metrics.history, random=torch.rand(2))

MOMENTS = [('after_batch', 0, 0, True), ('begin_batch', 0, 2, True), ('after_batch', 1, 3, True),
           ('after_batch', 1, 4, True), ('begin_batch', 1, 0, False), ('after_batch', 1, 1, False),
           ('after_epoch', 1, 1, False), ('begin_batch', 2, 0, True)]
GROUPS = 0,3 # batches for a step
STOPS  = {0: MOMENTS[::2], 3: [MOMENTS[i] for i in (1, 2, 5, 7)]} # of the last, two are inside of a group

def stopped_and_resumed(folder):
    "For each moment: a run that stops there and goes on. The first of a group never stopped, nor had a checkpoint."
    found = []
    for a in GROUPS:
        found.append([resumed(None, accumulate=a)])
        for i,moment in enumerate(STOPS[a]):
            assert resumed(folder/f'{a} {i}', moment, a, every=1+i%3) is None
            found[-1].append(resumed(folder/f'{a} {i}', None, a, every=1+i%3))
    return found

def test_stopped_and_resumed_bit_for_bit(tmp_path):
    ranks = Processes(2, stopped_and_resumed, tmp_path).results()
    for i,accumulate in enumerate(GROUPS):
        never,*runs = alike([found[i] for found in ranks])
        for moment,run in zip(STOPS[accumulate], runs, strict=True):
            assert distance(run, never)==0, (accumulate, moment)

CHAINS = (2, 4, 1),(4, 1, 2)

def links(folder, link, size):
    "Part number `link` of each run whose chain has `size` ranks there."
    stops = ('after_batch', 0, 3, True),('after_batch', 1, 1, True),None
    return {(chain, a): resumed(folder/f'{chain} {a}', stops[link], a, dropout=0., progress=chain[0]==4)
            for chain in CHAINS for a in GROUPS if chain[link]==size}

def test_another_number_of_ranks(tmp_path):
    "A run goes on with more or fewer ranks, also inside of a group and of an epoch."
    expected,done = {a: resumed(None, None, a, dropout=0.) for a in GROUPS},{}
    for link in range(3):
        for size in 1,2,4:
            if size==1: found = links(tmp_path, link, 1)
            else: found = alike(Processes(size, links, tmp_path, link, size).results())
            if link==2: done |= found
    assert len(done)==len(CHAINS)*len(GROUPS)
    for (chain,a),found in done.items(): assert distance(found, expected[a])<1e-12, (chain, a)

def after_killed(folder, kill):
    "Rank 1 is killed in a batch; started again, all go on."
    if kill:
        class Kill(Callback):
            order = Checkpoint.order + 1
            def after_loss(self):
                if self.run.n_iter==7 and os.environ['RANK']=='1': os.kill(os.getpid(), signal.SIGKILL)
        return fitted([Kill(), Checkpoint(folder, seconds=None, every=2, log=None)], dropout=0.3)
    again = [] if folder is None else [Checkpoint(folder, seconds=None, every=2, log=None)]
    return fitted(again, dropout=0.3)

def test_killed(tmp_path):
    never = alike(Processes(2, after_killed, None, False).results())
    killed = Processes(2, after_killed, tmp_path, True)
    assert killed.wait()==[1, -signal.SIGKILL]
    assert 'another process has ended' in killed.error(0)
    assert len(list(tmp_path.glob('checkpoint_*.safetensors')))==2
    assert distance(alike(Processes(2, after_killed, tmp_path, False).results()), never)==0

# Ranks that go different ways

class Alone(Callback):
    "Do something on one rank only, at an event of batch 1 in training or in validation."
    def __init__(self, event, act, in_train=True, rank=1, order=0, batch=1):
        def go():
            here = self.run.iter,self.run.in_train,int(os.environ['RANK'])
            if here==(batch, in_train, rank): return act()
        self.order = order
        setattr(self, event, go)

def cancel(error):
    def act(): raise error
    return act
def answer_true(): return True

SKIPPED,WAYS = r'this batch was skipped on rank 1 and not on the others',r'the processes went different ways: rank 0 at'
ALONE = [('begin_batch',  cancel(CancelBatchException), True,  f'{SKIPPED}|{WAYS}'),
         ('begin_batch',  answer_true,                  True,  f'{SKIPPED}|{WAYS}'),
         ('after_pred',   cancel(CancelBatchException), True,  SKIPPED),
         ('after_loss',   cancel(CancelBatchException), True,  SKIPPED),
         ('after_backward', cancel(CancelBatchException), True, 'have different weights'),
         ('after_backward', answer_true,                True,  'have different weights'),
         ('begin_batch',  cancel(CancelTrainException), True,  f'{SKIPPED}|{WAYS}'),
         ('after_pred',   cancel(CancelTrainException), True,  SKIPPED),
         ('after_batch',  cancel(CancelTrainException), True,  WAYS),
         ('after_batch',  cancel(CancelEpochException), True,  WAYS),
         ('begin_batch',  cancel(CancelBatchException), False, SKIPPED),
         ('begin_batch',  answer_true,                  False, SKIPPED),
         ('after_pred',   cancel(CancelBatchException), False, SKIPPED),
         ('after_batch',  cancel(CancelTrainException), False, WAYS),
         ('after_batch',  cancel(CancelEpochException), False, WAYS)]

def error_of(f):
    start = time.monotonic()
    try: f()
    except Exception as e: return f'{type(e).__name__}: {e}',time.monotonic()-start
    return 'no error',0.

def alone_at(event, act, in_train, norm):
    learn = new_learner(n_valid=65)
    if norm: learn.model[2] = nn.BatchNorm1d(21).double() # DDP sends its buffers in each forward
    Runner([*usual(), Alone(event, act, in_train), *several()]).fit(2, learn)

def other_data():
    "Each rank draws its own training set."
    torch.manual_seed(int(os.environ['RANK']))
    train_ds,_ = torch_data.random_split(Dataset(X, Y), [60, 13])
    fitted(learn=new_learner((torch_data.DataLoader(train_ds, 16), new_loaders()[1])))

def all_alone():
    found = [error_of(lambda: alone_at(*args, norm)) for *args,_ in ALONE for norm in (False, True)]
    return found + [error_of(other_data)]

def test_a_rank_that_goes_its_own_way():
    "All ranks raise an error that says what happened, at once."
    ranks = Processes(2, all_alone).results()
    expected = [(e, act.__qualname__, in_train, text) for e,act,in_train,text in ALONE for _ in range(2)]
    expected.append(('other data', '', True, 'the processes have different batches'))
    for what,*found in zip(expected, *ranks, strict=True):
        for text,seconds in found:
            assert text.startswith('RuntimeError: ') and re.search(what[-1], text), (what, text)
            assert seconds<15, (what, seconds) # not the timeout, which is 30 s

def fails_alone(act, timeout):
    Runner([*usual(), Alone('after_pred', act), Distributed(timeout=timeout)]).fit(2, new_learner())

def at_exit(error):
    "Do what Python does as a script ends; return whether there's still a process group."
    atexit._clear() # not what the tests have left there
    Distributed(timeout=30).ranks.meet('any') # both have joined, also on a busy machine
    if error: sys.last_value = error
    atexit._run_exitfuncs()
    return torch.distributed.is_initialized()

def test_group_ends_with_the_script():
    "Else a message on its way can end Python by SIGABRT, once in a hundred times, after all has been trained."
    assert Processes(2, at_exit, None).results()==[False]*2
    assert Processes(2, at_exit, ValueError()).results()==[True]*2 # others may wait, and taking it down would wait, too

def test_an_error_on_one_rank():
    processes = Processes(2, fails_alone, cancel(ValueError('a bad sample')), 60)
    assert processes.wait(30)==[1, 1]
    assert 'ValueError: a bad sample' in processes.error(1) and 'in Alone.go' in processes.error(1)
    assert 'another process has ended' in processes.error(0)

def test_one_rank_hangs():
    processes,end = Processes(2, fails_alone, lambda: time.sleep(600), 2),time.monotonic()+60
    while not processes.error(0) and time.monotonic()<end: time.sleep(0.1)
    os.kill(processes.pids[1], signal.SIGKILL)
    assert processes.wait()==[1, -signal.SIGKILL]
    assert 'Timed out' in processes.error(0) and 'too slow' in processes.error(0)

def checked(accumulate): fitted([CheckFinite(), Broken(batch=5), *grouped(accumulate)], 3, n=64)

def test_check_finite():
    "Gradients are added up: all see that they aren't finite, or the one that does ends, and the others hear of it."
    for accumulate in 0,3:
        processes = Processes(2, checked, accumulate)
        assert processes.wait()==[1, 1]
        assert 'FloatingPointError: training batch 1 of epoch 1: the loss is nan' in processes.error(1)
        assert ('another process has ended' if accumulate else 'FloatingPointError: training batch 1 of epoch 1') \
            in processes.error(0)

# Sharded models

def sharded(folder, shard, moment=None, accumulate=0):
    return resumed(folder, moment, accumulate, dropout=0., shard=shard, ema=False)

SHARDED = [(True, True), (True, False), (False, True)] # before the stop, and after it

def whole_then_sharded():
    "What the optimiser has kept goes on, too."
    learn = new_learner(opt='adam')
    for shard in False,True: Runner([Distributed(timeout=30, shard=shard)]).fit(1, learn)
    return [p.detach() for p in whole(list(learn.model.parameters()))]

def all_sharded(folder):
    found = []
    for a in GROUPS:
        found.append([sharded(None, True, None, a)])
        for i,(before,after) in enumerate(SHARDED if a else SHARDED[:0]):
            assert sharded(folder/f'{a} {i}', before, MOMENTS[2], a) is None
            found[-1].append(sharded(folder/f'{a} {i}', after, None, a))
    assert sharded(folder/'for one', True, MOMENTS[2]) is None
    return found,sharded(folder/'of one', True),whole_then_sharded()

def test_sharded(tmp_path):
    "A sharded model trains like a whole one, and their checkpoints are alike."
    assert sharded(tmp_path/'of one', False, MOMENTS[2]) is None
    expected = [sharded(None, False, None, a) for a in GROUPS]
    runs,of_one,later = alike(Processes(2, all_sharded, tmp_path).results())
    for a,whole_run,found in zip(GROUPS, expected, runs, strict=True):
        for i,run in enumerate(found): assert distance(run, whole_run)<1e-12, (a, i)
    assert distance(of_one, expected[0])<1e-12 and distance(later, whole_then_sharded())<1e-12
    assert distance(sharded(tmp_path/'for one', False), expected[0])<1e-12

# torchrun

# What callbacks and data may do besides

class Noise(Callback):
    order = GradientClip.order + 1
    def after_backward(self):
        for p in self.model.parameters(): p.grad.add_(torch.randn_like(p.grad), alpha=0.1)

class Unfreezes(Callback):
    def begin_epoch(self): self.model[0].bias.requires_grad_(self.epoch>0)
    def begin_batch(self):
        if self.n_iter==2: self.model[0].bias.requires_grad_(True)

class AddsToLoss(Callback):
    def after_loss(self):
        if self.in_train: self.run.loss = self.loss + 0.5*self.pred.pow(2).mean()

class SkipsLast(Callback):
    order = 5
    def __init__(self, event): setattr(self, event, lambda: self.in_train and self.iter==4)

class Nested(Callback):
    "Validates in an epoch, with a loader that reads parts."
    def after_step(self):
        if self.n_iter==1: Runner([*several()]).validate(new_learner(), RankLoader(new_loaders(kind='torch')[1]))

class Centred(nn.Module):
    "A loss with a buffer that it changes."
    def __init__(self):
        super().__init__()
        self.register_buffer('centre', torch.zeros(5, dtype=torch.float64))
    def forward(self, pred, yb):
        if self.training: self.centre.mul_(0.9).add_(0.1*pred.detach().mean(0))
        return F.cross_entropy(pred-self.centre, yb)

class Lazy(torch_data.Sampler):
    "Draws each index when it's needed."
    def __len__(self): return 73
    def __iter__(self):
        left = list(range(73))
        while left: yield left.pop(np.random.randint(len(left)))

class DrawsByNumpy(Callback):
    order = 5
    def begin_batch(self): self.drawn = [np.random.rand() for _ in self.xb]

BESIDES = dict(noise=[Noise], unfreezes=[Unfreezes], adds=[AddsToLoss], nested=[Nested],
               **{f'skips in {event}': [lambda: GradientAccumulation(3), lambda event=event: SkipsLast(event)]
                  for event in ('begin_batch', 'after_pred', 'after_loss')})

def lazy():
    np.random.seed(0)
    return fitted([DrawsByNumpy()], learn=new_learner((torch_data.DataLoader(Dataset(X, Y), 15, sampler=Lazy()), None)))

def all_besides():
    return {name: fitted([make() for make in makers]) for name,makers in BESIDES.items()} | {'lazy': lazy()}

def test_what_callbacks_do_besides():
    alone,ranks = all_besides(),Processes(2, all_besides).results()
    for name in BESIDES: assert distance(alike([found[name] for found in ranks]), alone[name])<1e-12, name
    assert alike([found['lazy'] for found in ranks])['n']==[(73, 0)]*2

def drawn_unequally(folder, moment=None):
    "Draws for each sample of a part, and a loss with a buffer: ranks may have different ones."
    class Moves(DrawsByNumpy):
        saved = 'sums',
        def __init__(self): self.sums = []
        def begin_batch(self):
            super().begin_batch()
            self.run.xb = self.xb + 0.1*torch.tensor(self.drawn, dtype=torch.float64)[:,None]
            self.sums.append(self.run.xb.sum().item())
    np.random.seed(0)
    learn = new_learner()
    learn.loss_func = Centred()
    cbs = [Moves(), Checkpoint(folder, seconds=None, every=1, log=None), Stop(moment)]
    try: return fitted(cbs, learn=learn),cbs[0].sums
    except Stopped: return None

def test_unequal_draws_go_on(tmp_path):
    never = Processes(2, drawn_unequally, tmp_path/'never').results()
    for moment in ('after_batch', 0, 2, True),('after_batch', 1, 1, True):
        folder = tmp_path/f'{moment[1]}'
        assert Processes(2, drawn_unequally, folder, moment).results()==[None, None]
        again = Processes(2, drawn_unequally, folder).results()
        assert all(distance(a, b)==0 for a,b in zip(never, again)), moment

# Groups of batches, layers that some batches don't use, and fits in a batch of another one

class Experts(nn.Module):
    "The first half of a batch goes to one layer, the second to the other; or one batch after the other."
    turns = None
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(12, 5, bias=False) for _ in range(2))
    def forward(self, x):
        if self.turns is not None: return self.experts[self.turns](x)
        out = x.new_zeros(len(x), 5)
        for i,expert in enumerate(self.experts):
            mine = (x[:,0]<0)==bool(i)
            if mine.any(): out[mine] = expert(x[mine])
        return out

HALVES = X[:64].clone()
HALVES[:,0] = torch.tensor(([1.]*8 + [-1.]*8)*4)

def fit_experts(*cbs, turns=False, epochs=1):
    torch.manual_seed(0)
    model = Experts().double()
    if turns: model.turns = 0
    data = DataBunch(*get_dls(Dataset(HALVES, Y[:64]), Dataset(HALVES, Y[:64]), 16), 5)
    data.train_dl = DataLoader(Dataset(HALVES, Y[:64]), 16)
    learn = Learner(model, optim.SGD(model.parameters(), lr=0.5), F.cross_entropy, data)
    alone = [Distributed(timeout=30, find_unused_parameters=True)] if launched() else []
    run = Runner([*usual(), *cbs, *alone])
    run.fit(epochs, learn)
    return result(run, learn)

class TakesTurns(Callback):
    "Batch 0 goes through the first layer, the others through the second."
    def __init__(self, cancels=False): self.cancels = cancels
    def begin_batch(self):
        self.model.turns = int(self.iter>0)
        if self.cancels and self.in_train and self.iter==1: raise CancelBatchException

class FreezesInGroup(Callback):
    def after_batch(self):
        if self.in_train and self.iter==0: self.model[0].requires_grad_(False)

class Looks(Callback):
    "Validates, or predicts, before `backward`."
    def after_loss(self):
        if self.in_train and self.iter==1: Runner(several()).validate(self.learn, new_loaders()[1])

def odd_groups():
    return dict(frozen=fitted([GradientAccumulation(3), FreezesInGroup()]), looks=fitted([Looks()]),
                halves=fit_experts(GradientAccumulation(4), SkipsLast('begin_batch'), epochs=2),
                skipped=fit_experts(GradientAccumulation(4), SkipsLast3()),
                turns=fit_experts(GradientAccumulation(2), TakesTurns(), turns=True),
                cancelled=fit_experts(GradientAccumulation(2), TakesTurns(cancels=True), turns=True))

class SkipsLast3(Callback):
    def begin_batch(self): return self.in_train and self.iter==3

def test_odd_groups_of_batches():
    "What is frozen, skipped, cancelled or not used in a group of batches that make one step."
    alone,ranks = odd_groups(),Processes(2, odd_groups).results()
    for name in alone: assert distance(alike([found[name] for found in ranks]), alone[name])<1e-12, name

def experts_stopped(folder, moment=None):
    cbs = [GradientAccumulation(4), TakesTurns(), Checkpoint(folder, seconds=None, every=1, log=None), Stop(moment)]
    try: return fit_experts(*cbs, turns=True)
    except Stopped: return None

def test_stopped_in_a_group_of_layers_that_take_turns(tmp_path):
    never = alike(Processes(2, experts_stopped, tmp_path/'never').results())
    assert Processes(2, experts_stopped, tmp_path/'again', ('after_batch', 0, 1, True)).results()==[None, None]
    assert distance(alike(Processes(2, experts_stopped, tmp_path/'again').results()), never)==0

# Random numbers

class Masks(Callback):
    "What dropout has dropped in each training batch."
    def __init__(self): self.seen = []
    def after_pred(self):
        if self.in_train: self.seen.append(self.pred==0)

class Augments(Callback):
    def begin_batch(self): self.run.xb = self.xb + torch.randn_like(self.xb)

def dropping(data=None):
    model = nn.Sequential(nn.Linear(12, 5), nn.Dropout(0.5)).double()
    nn.init.ones_(model[0].bias)
    ordered = DataLoader(Dataset(X[:32], Y[:32]), 16) # which draws nothing
    return Learner(model, optim.SGD(model.parameters(), lr=0.01), F.cross_entropy, data or DataBunch(ordered, ordered))

class LooksInBatch(Callback):
    def begin_batch(self):
        if self.in_train and self.iter==0: Runner(several()).validate(self.learn, new_loaders()[1])

class Jitter(torch_data.Dataset):
    def __len__(self): return 45
    def __getitem__(self, i): return X[i] + 0.01*torch.randn(12),Y[i]

class Inputs(torch_data.Dataset):
    def __len__(self): return 5
    def __getitem__(self, i): return X[i]

def drawing():
    torch.manual_seed(0)
    several_preds = [Distributed(timeout=30, all_preds=True)] if launched() else []
    inputs = Runner([*several_preds]).get_preds(dropping(), RankLoader(torch_data.DataLoader(Inputs(), 4)))[0]
    run,learn = Runner([Augments(), *several_preds]),dropping()
    preds = torch.stack([run.get_preds(learn)[0] for _ in range(3)])
    masks,nested = Masks(),Masks()
    run = Runner([masks, *several()])
    for _ in range(2): run.fit(1, learn)
    Runner([nested, LooksInBatch(), *several()]).fit(1, learn)
    jitter = dropping(DataBunch(RankLoader(torch_data.DataLoader(Jitter(), 15, shuffle=True))))
    Runner([Noise(), *several()]).fit(2, jitter)
    return preds,masks.seen,nested.seen,inputs,jitter.model[0].weight.detach()

def test_random_numbers_from_fit_to_fit():
    alone,ranks = drawing(),Processes(2, drawing).results()
    for preds,masks,*_ in [alone, *ranks]:
        assert preds.std(0).min()>0 and not torch.equal(masks[0], masks[2]) # each pass and fit draws others
    for a,b in zip(ranks[0][2], ranks[1][2]): assert 0.2<(a==b).double().mean()<0.8 # also after a fit in a batch
    assert distance(ranks[0][3], ranks[1][3])==0 and distance(ranks[0][3], alone[3])<1e-12
    assert distance(ranks[0][4], ranks[1][4])==0 # the data draw, in parts of 8 and 7, and so does each step

# What would be wrong without a word

class DropsSamples(Callback):
    def begin_batch(self):
        good = self.xb[:,0]>-0.5
        self.run.xb,self.run.yb = self.xb[good],self.yb[good]

class Unused(nn.Sequential):
    def forward(self, x): return self[0](x)

def one_batch_unused():
    torch.manual_seed(0)
    model = Unused(nn.Linear(12, 5), nn.Linear(3, 3)).double()
    data  = DataBunch(DataLoader(Dataset(X, Y), 73))
    Runner(several()).fit(1, Learner(model, optim.SGD(model.parameters(), lr=0.1), F.cross_entropy, data))

class OneBit(Callback):
    "Rank 1 changes the last bit of one weight."
    def after_step(self):
        if int(os.environ['RANK'])==1: self.model[0].weight.data[0,0].mul_(1+2**-52)

def silent(f): return Processes(2, error_of, f).results()

@pytest.mark.parametrize('f, said', [(lambda: fitted([DropsSamples()]), 'how many samples a part has'),
                                     (one_batch_unused, 'Expected to have finished reduction'),
                                     (lambda: fitted([OneBit()]), 'different weights')])
def test_not_without_a_word(f, said):
    for text,_ in silent(f): assert said in text
