"""Averages that are computed in chunks: the same numbers as at once, whatever callbacks and loaders do."""
import copy, math, pickle

import pytest, torch, torch.nn.functional as F
from torch import nn, optim

from lesson9.all import *
from lesson9.minibatch import DataLoader

X = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
Y = torch.arange(1000)*7%10

def top_3(pred, yb): return (pred.topk(3).indices==yb[:,None]).any(1).float().mean()
top_3.pure = True
def perplexity(pred, yb): return F.cross_entropy(pred, yb).exp()
perplexity.pure = True
def total(pred, yb): return pred.sum() # not marked

class AtOnce(AvgStatsCallback):
    "Puts nothing off."
    def begin_fit(self):
        super().begin_fit()
        self.train_stats.buffer.active = self.valid_stats.buffer.active = False

class Counts(AvgStatsCallback):
    "Notes how many batches and bytes have waited at most."
    most,nbytes = 0,0
    def after_loss(self):
        super().after_loss()
        for buffer in self.train_stats.buffer,self.valid_stats.buffer:
            self.most   = max(self.most, buffer.filled)
            self.nbytes = max(self.nbytes, sum(block.nbytes for block in buffer.blocks))

def small_model(): return nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 10))
def loader(bs, x=X, y=Y): return DataLoader(Dataset(x, y), bs)

def history(kind=Counts, cbs=lambda: (), metrics=(accuracy, top_3), dl=lambda: loader(7), loss=F.cross_entropy,
            model=small_model, lr=0.1):
    "The rows of a fit of two epochs, and the callback that has measured."
    torch.manual_seed(0)
    model = model()
    learn = Learner(model, optim.SGD(model.parameters(), lr=lr, momentum=0.5), loss, DataBunch(dl(), dl()))
    stats = kind([*metrics], log=None)
    Runner([stats, *cbs()]).fit(2, learn)
    return stats.history,stats

class ZeroesBatch(Callback):
    "Changes what the statistics have seen, in place."
    order = 1
    def after_loss(self):
        if self.in_train: self.run.loss = self.run.loss*1
        for t in self.run.pred,self.run.yb: t.data.zero_()
        self.run.loss.data.mul_(0.5)
class SkipSome(Callback):
    order = -5
    def begin_batch(self): return self.run.iter%5==2
class CancelSome(Callback):
    order = 5
    def after_loss(self):
        if self.run.iter%7==3: raise CancelBatchException()
class ValidatesInside(Callback):
    def after_batch(self):
        if not self.run.in_train or self.run.iter%50: return
        Runner().validate(self.run.learn, metrics=accuracy)
        self.run.model.train()

class SameMemory:
    "All batches in the same memory."
    def __len__(self): return 100
    def __iter__(self):
        xb,yb = torch.empty(9, 16),torch.empty(9, dtype=torch.long)
        for i in range(0, 900, 9):
            xb.copy_(X[i:i+9])
            yb.copy_(Y[i:i+9])
            yield xb,yb
class Sizes:
    "Batches of these sizes, over and over."
    def __init__(self, *sizes): self.sizes = sizes
    def __len__(self): return 120
    def __iter__(self):
        first = 0
        for i in range(120):
            n = self.sizes[i%len(self.sizes)]
            yield X[first:first+n],Y[first:first+n]
            first += n
class Sized(list): "A batch that says its size."
class Weighted:
    "Tensors of one form, and sizes that differ."
    def __len__(self): return 60
    def __iter__(self):
        for i in range(60):
            xb = Sized([X[4*i:4*i+4]])
            xb.batch_size = 2+i%2
            yield xb,Y[4*i:4*i+4]

class Pair(nn.Module):
    "Returns two tensors."
    def __init__(self):
        super().__init__()
        self.model = small_model()
    def forward(self, x): return self.model(x),x
def of_pair(pred, yb): return accuracy(pred[0], yb)
of_pair.pure = True

class Alternates:
    "A loss whose shape changes."
    n = 0
    def __call__(self, pred, yb):
        self.n += 1
        loss = F.cross_entropy(pred, yb)
        return loss.view(1) if self.n%3==0 else loss
def empty_too(pred, yb): return F.cross_entropy(pred, yb) if len(yb) else pred.sum()

ignored = torch.where(Y>5, -100, Y)
CASES = { # settings, and whether batches wait
    'filled rows': (dict(dl=lambda: loader(3)), True),
    'changed in place': (dict(cbs=lambda: [ZeroesBatch()]), True),
    'memory used again': (dict(dl=SameMemory), True),
    'accumulation': (dict(cbs=lambda: [GradientAccumulation(3)]), True),
    'skipped batches': (dict(cbs=lambda: [SkipSome()]), True),
    'cancelled batches': (dict(cbs=lambda: [CancelSome()]), True),
    'validation inside': (dict(cbs=lambda: [ValidatesInside()]), True),
    'compiled': (dict(cbs=lambda: [Compile(backend='eager')]), True),
    'bfloat16': (dict(cbs=lambda: [MixedPrecision(torch.bfloat16)]), False),
    'float16': (dict(cbs=lambda: [MixedPrecision(torch.float16)]), False),
    'a graph': (dict(cbs=lambda: [CudaGraph(warmup=20, capture=GraphCapture)]), False),
    'nan': (dict(lr=1e6), True),
    'ignored targets': (dict(dl=lambda: loader(7, y=ignored)), True),
    'many sizes': (dict(dl=lambda: Sizes(5, 5, 5, 3, 3, 1, 1, 1, 8)), True),
    'empty batches': (dict(dl=lambda: Sizes(9, 0, 9), loss=empty_too), True),
    'sizes apart from shapes': (dict(dl=Weighted), False),
    'a smaller last batch, loss alone': (dict(metrics=(), dl=lambda: loader(64)), True),
    'a loss of one dimension': (dict(loss=lambda pred, yb: F.cross_entropy(pred, yb).view(1)), True),
    'a loss whose shape changes': (dict(loss=Alternates()), True),
    'two outputs': (dict(model=Pair, metrics=[of_pair], loss=lambda pred, yb: F.cross_entropy(pred[0], yb)), False),
    'no mean over samples': (dict(metrics=[accuracy, perplexity]), True),
    'one that is not marked': (dict(metrics=[accuracy, total]), False),
    'float64': (dict(model=lambda: small_model().double(), dl=lambda: loader(7, X.double())), True),
    'a model in bfloat16': (dict(model=lambda: small_model().bfloat16(), dl=lambda: loader(7, X.bfloat16())), True)}

@pytest.mark.parametrize('case', CASES)
def test_the_same_as_at_once(case):
    settings,waits = CASES[case]
    (found,stats),(expected,_) = history(**settings),history(AtOnce, **settings)
    assert (stats.most>0)==waits
    assert stats.most<=256 and stats.nbytes<=2**20
    for row,other in zip(found, expected, strict=True):
        assert row.keys()==other.keys()
        for k in row:
            same = math.isnan(row[k]) and math.isnan(other[k]) or abs(row[k]-other[k])<=1e-6*max(1, abs(other[k]))
            assert same, (k, row[k], other[k])

def test_nothing_is_kept_between_epochs():
    _,stats = history()
    for part in stats.train_stats,stats.valid_stats: assert (part.buffer.blocks, part.buffer.rows)==((), [])

class Looks(Callback):
    "Reads everything after each batch."
    order = 1
    def after_batch(self):
        cb = self.run.counts
        return (cb.train_stats.averages, cb.valid_stats.averages, cb.state_dict()) and None

def test_looking_changes_no_bit(): assert history(cbs=lambda: [Looks()])[0]==history()[0]

class Leaves(Callback):
    order = Checkpoint.order + 1
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.run.in_train and self.run.n_iter==self.n: raise KeyboardInterrupt

def few(): return loader(3) # 334 batches an epoch

@pytest.fixture(scope='module')
def without_a_stop(): return history(dl=few)[0]

@pytest.mark.parametrize('n', [1, 2, 3, 255, 256, 257, 258, 259, 333, 334, 335, 600])
def test_going_on_changes_no_bit(n, tmp_path, without_a_stop):
    "From any batch: also when the rows are filled, and when they are empty."
    def saved(**when): return Checkpoint(tmp_path, seconds=None, log=None, **when)
    with pytest.raises(KeyboardInterrupt): history(cbs=lambda: [saved(every=n), Leaves(n)], dl=few)
    assert [*tmp_path.glob('checkpoint_*')], 'nothing to go on from'
    assert history(cbs=lambda: [saved()], dl=few)[0]==without_a_stop

def add(stats, n, *cbs):
    "Accumulate a batch `n` times, in a run with these callbacks."
    run = Runner(cbs)
    run.xb,run.yb = X[:4],Y[:4]
    run.pred = X[:4,:10]
    run.loss = F.cross_entropy(run.pred, run.yb)
    for _ in range(n): stats.accumulate(run)

def test_a_graph_goes_on_from_rows():
    "What has waited is added before anything is captured."
    stats = AvgStats([accuracy])
    add(stats, 5)
    for active in True, False:
        other = AvgStats([accuracy])
        other.buffer.active = active
        other.load(*copy.deepcopy(stats.state()))
        add(other, 1)
        assert other.count==24 and other.buffer.filled==(5 if active else 0)
        assert other.averages==pytest.approx(stats.averages, abs=1e-6)

@pytest.mark.parametrize('rows', [True, False])
def test_no_batch_waits_beside_a_graph_that_goes_on(rows):
    "A graph is noticed in the middle of a pass, too, whether or not batches have waited before."
    stats,other = AvgStats([accuracy]),AvgStats([accuracy])
    stats.buffer.active = rows
    add(stats, 5)
    other.load(*copy.deepcopy(stats.state()))
    add(other, 3, CudaGraph(capture=GraphCapture))
    assert (other.count, other.buffer.filled, other.buffer.active)==(32, 0, False)
    assert other.averages==pytest.approx(stats.averages, abs=1e-6)

def test_an_error_comes_with_the_first_batch():
    def fails(pred, yb): raise ZeroDivisionError
    fails.pure = True
    with pytest.raises(ZeroDivisionError) as error: history(metrics=[fails])
    assert 'training batch 0 of epoch 0' in ''.join(error.value.__notes__)
    def each(pred, yb): return pred.argmax(1)==yb
    each.pure = True
    with pytest.raises(ValueError, match='each must be one number'): history(metrics=[each])

def test_copies():
    stats = history()[1]
    stats.run = None
    for again in copy.deepcopy(stats),pickle.loads(pickle.dumps(stats)): assert again.history==stats.history

def test_nothing_waits_for_the_device():
    with SyncCounter() as counter: stats = history(dl=lambda: loader(10))[1]
    assert len(counter.calls)==12 and stats.most # three averages of each pass, as each epoch ends

def one_epoch(cbs, bs):
    torch.manual_seed(0)
    model = nn.Linear(16, 10)
    learn = Learner(model, optim.SGD(model.parameters(), lr=0.1), F.cross_entropy, DataBunch(loader(bs), None))
    Runner(cbs).fit(1, learn)

@pytest.mark.parametrize('pure', [True, False])
def test_a_batch_that_a_metric_cancels_adds_nothing_twice(pure):
    def full_batches(pred, yb):
        if len(yb)<30: raise CancelBatchException()
        return (pred.argmax(1)==yb).float().mean()
    full_batches.pure = pure
    losses,measured = Losses(),AvgStatsCallback(full_batches, log=None)
    one_epoch([losses, measured], 30)
    assert measured.history[-1]['train_loss']==pytest.approx(sum(losses.full)/len(losses.full), abs=1e-5)

class Losses(Callback):
    "Notes the losses of full batches."
    order = -1
    def __init__(self): self.full = []
    def after_loss(self):
        if len(self.xb)==30: self.full.append(self.loss.item())

class Own(Callback):
    "Averages of a callback that isn't an AvgStatsCallback, as CudaGraph asks for them."
    order = 1
    def begin_epoch(self): self.stats = AvgStats([accuracy])
    def after_loss(self): self.stats.accumulate(self.run)
    def after_replay(self): self.stats.count += batch_size(self.run.xb)
    def after_epoch(self): self.found = self.stats.averages

def test_averages_of_any_callback_are_captured():
    plain,graph = Own(),Own()
    one_epoch([plain], 50)
    one_epoch([graph, CudaGraph(capture=GraphCapture)], 50)
    assert graph.found==pytest.approx(plain.found, abs=1e-6)
