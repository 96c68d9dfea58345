"""Each callback of the library, trained with on this machine's accelerator; where there is none, on the processor, as a
try. No callback makes the batches wait for the device but those that say so, and each gives the weights that it gives
on the processor."""
import contextlib, io, warnings

import pytest, torch, torch.nn.functional as F
from torch import nn, optim

from lesson9.all import *
from lesson9.files import load_tensors
from test_pairs import all_callbacks, small_model

DEVICE = default_device()
ON_GPU = DEVICE.type=='cuda'
DATA = Dataset(torch.randn(160, 16, generator=torch.Generator().manual_seed(0)), torch.arange(160)%10)
# These look at the loss now and then, and torcheval's F1 at each batch on CUDA.
WAITS = {'TerminateOnNaN', 'LRFinder'} | ({'Metrics'} if ON_GPU else set())

def names(folder): return [type(cb).__name__ for cb in sum(all_callbacks(folder), [])]

class CountWaits(Callback):
    "Count the synchronisations between the batches of all epochs but the first, which may compile and capture."
    order = TrainEvalCallback.order - 1 # inside of what all others do in an epoch
    n,stack = 0,None
    def begin_epoch(self):
        if self.epoch==0: return
        self.stack = contextlib.ExitStack()
        if ON_GPU:
            self.warned = self.stack.enter_context(warnings.catch_warnings(record=True))
            warnings.simplefilter('always')
            torch.cuda.set_sync_debug_mode('warn')
        else: self.counter = self.stack.enter_context(SyncCounter())

    def begin_validate(self): self.stop()
    def after_epoch(self): self.stop()
    def after_fit(self): self.stop()
    def stop(self):
        if not self.stack: return
        if ON_GPU: torch.cuda.set_sync_debug_mode('default')
        found = [w for w in self.warned if 'synchroniz' in str(w.message)] if ON_GPU else self.counter.calls
        self.n += len(found)
        self.stack.close()
        self.stack = None

def train(name, device, folder):
    "Train with a callback of this name. Return the weights, the Runner, and how often the device was waited for."
    cbs = [cb for cb in sum(all_callbacks(folder), []) if type(cb).__name__==name]
    if name=='DeviceCallback': cbs = []
    if name=='CudaGraph' and device.type=='cuda': cbs = [CudaGraph(warmup=1)]
    if name=='Compile' and device.type=='cuda': cbs = [Compile()]
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = small_model()
    data  = DataBunch(DeviceLoader(DATA, 20, True, device), DeviceLoader(DATA, 40, device=device), c=10)
    learn = Learner(model, optim.SGD(model.parameters(), lr=0.3, momentum=0.9), F.cross_entropy, data)
    counter = CountWaits()
    if name not in ('AvgStatsCallback', 'ProgressCallback'): cbs += [AvgStatsCallback(log=None)] # one measures the loss
    run = Runner([DeviceCallback(device), counter, *cbs])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed): run.fit(3, learn)
    return torch.cat([p.detach().cpu().flatten() for p in model.parameters()]),run,counter.n

@pytest.fixture(scope='module', autouse=True)
def warm_up(tmp_path_factory):
    "Train once before: the first fit on a device loads kernels and allocates pinned memory."
    train('Recorder', DEVICE, tmp_path_factory.mktemp('warm_up'))

@pytest.fixture(params=range(26))
def name(request, tmp_path):
    found = names(tmp_path)
    assert len(found)==26
    return found[request.param]

def test_callback(name, tmp_path):
    if name=='TensorBoardLogger': pytest.importorskip('tensorboard', reason='TensorBoard is not installed')
    weights,run,waits = train(name, DEVICE, tmp_path)
    assert run.n_iter>0 and weights.isfinite().all()
    assert (waits>0)==(name in WAITS), name
    expected,*_ = train(name, torch.device('cpu'), tmp_path)
    # shifts are drawn by the device's own generator; half precision rounds differently there
    loose = {'BatchTransform': None, 'MixedPrecision': 0.05}.get(name, 1e-4)
    if loose: assert (weights-expected).abs().max()<loose

class BreaksGradient(Callback):
    "One infinite number in a gradient, in the second epoch."
    order = CheckFinite.order - 1
    def after_backward(self):
        if (self.epoch, self.iter)==(1, 3): self.model[2].bias.grad[1] = float('inf')

@pytest.mark.parametrize('checks', [[], [CheckFinite()], [CheckFinite(layers=True)]])
def test_broken_gradient(checks, tmp_path):
    "The error names batch and weight, nothing has waited, and the newest checkpoint holds good weights."
    torch.manual_seed(0)
    model = small_model().to(DEVICE)
    learn = Learner(model, optim.SGD(model.parameters(), lr=0.1), F.cross_entropy,
                    DataBunch(DeviceLoader(DATA, 20, device=DEVICE), c=10))
    run = Runner([BreaksGradient(), *checks, Checkpoint(tmp_path, every=1, log=None)])
    error = contextlib.nullcontext()
    if checks:
        error = pytest.raises(FloatingPointError, match='training batch 3 of epoch 1: .* of model.2.bias is not finite')
    with error: run.fit(2, learn)
    tensors,_ = load_tensors(sorted(tmp_path.iterdir())[-1])
    assert all(t.isfinite().all() for t in tensors.values() if t.is_floating_point())==bool(checks)
    counter = CountWaits()
    run = Runner([BreaksGradient(), *checks, counter])
    with error: run.fit(2, learn)
    assert counter.n==0

def test_float16_is_scaled():
    "GradScaler's scale grows and shrinks on the device, and the learner gets its own optimiser back."
    torch.manual_seed(0)
    model = small_model().to(DEVICE)
    opt = optim.SGD(model.parameters(), lr=0.1)
    learn = Learner(model, opt, F.cross_entropy, DataBunch(DeviceLoader(DATA, 20, device=DEVICE), c=10))
    run = Runner([MixedPrecision(torch.float16), AvgStatsCallback(accuracy, log=None)])
    run.fit(10, learn)
    losses = [row['train_loss'] for row in run.avg_stats.history]
    assert losses[-1]<losses[0] and learn.opt is opt
    assert all(p.isfinite().all() for p in model.parameters())

def test_lr_find_changes_nothing():
    "Weights, momentum, and the generators of processor and device are as they were, bit for bit."
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10)).to(DEVICE)
    opt = optim.AdamW(model.parameters(), lr=0.01)
    learn = Learner(model, opt, F.cross_entropy, DataBunch(DeviceLoader(DATA, 20, True, DEVICE), c=10))
    run = Runner([DeviceCallback(DEVICE), Recorder()])
    run.fit(1, learn)
    def state():
        numbers = [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if ON_GPU else [])]
        kept = [t for parameter in opt.state_dict()['state'].values() for t in parameter.values()]
        return [t.clone().cpu() for t in [*model.state_dict().values(), *kept, *numbers]]
    before = state()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        found = lr_find(learn, n=30)
    assert len(found.losses)>3
    assert all(torch.equal(a, b) for a,b in zip(before, state(), strict=True))

def test_the_same_seed_gives_the_same_weights():
    "Twice with `Seed`, bit for bit, dropout and shifts included."
    def fit(before):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 10))
        learn = Learner(model, optim.SGD(model.parameters(), lr=0.3, momentum=0.9), F.cross_entropy,
                        DataBunch(DeviceLoader(DATA, 20, True, DEVICE), c=10))
        torch.manual_seed(before) # `Seed` doesn't depend on what was drawn before
        Runner([DeviceCallback(DEVICE), Seed(3), BatchTransform(RandomShift(2, (4,4)))]).fit(2, learn)
        return torch.cat([p.detach().cpu().flatten() for p in model.parameters()])
    assert torch.equal(fit(1), fit(2))

def test_the_optimisers_state_moves_as_it_is():
    "To the device of its weight, in its own type; a learning rate that is a tensor stays the same object."
    model,lr = small_model().bfloat16(),torch.tensor(0.1)
    opt = optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    for p in model.parameters(): opt.state[p]['momentum_buffer'] = torch.ones(p.shape)
    data  = DataBunch(DeviceLoader(DATA, 20, device=DEVICE), c=10)
    learn = Learner(model, opt, nn.CrossEntropyLoss(torch.ones(10)), data)
    Runner(DeviceCallback(DEVICE)).fit(0, learn)
    assert opt.param_groups[0]['lr'] is lr and learn.loss_func.weight.device.type==DEVICE.type
    for p in model.parameters():
        kept = opt.state[p]['momentum_buffer']
        assert (kept.device, kept.dtype)==(p.device, torch.float32) and p.device.type==DEVICE.type

CAPTURE = CudaGraphCapture if ON_GPU else GraphCapture

class Sum(nn.Module):
    "A model of two named inputs."
    def __init__(self):
        super().__init__()
        self.layers = small_model()
    def forward(self, left, right): return self.layers(left - 2*right)

class Freeze(Callback):
    "Freeze the first layer for some batches."
    def begin_batch(self):
        if self.in_train and self.n_iter in (6, 14):
            for p in self.model.layers[0].parameters(): p.requires_grad_(self.n_iter==14)

def test_cuda_graph_follows_a_batch_and_frozen_layers():
    "Keys in another order, and a layer that is frozen after the capture: the weights are those of ordinary steps."
    x,y = DATA.x.to(DEVICE),DATA.y.to(DEVICE)
    batches = []
    for i in range(0, 160, 10):
        named = {'left': x[i:i+10], 'right': x.flip(0)[i:i+10]}
        batches.append((named if i%20 else dict(reversed(named.items())), y[i:i+10]))
    found = []
    for cbs in [], [CudaGraph(warmup=2, capture=CAPTURE)]:
        torch.manual_seed(0)
        model = Sum().to(DEVICE)
        opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        Runner([Freeze(), *cbs]).fit(2, Learner(model, opt, F.cross_entropy, DataBunch(batches, c=10)))
        found.append(torch.cat([p.detach().cpu().flatten() for p in model.parameters()]))
    assert (found[0]-found[1]).abs().max()<1e-4

class Interrupts(Callback):
    "Ctrl-C in the batch that is captured."
    def after_pred(self):
        if self.n_iter==2: raise KeyboardInterrupt
    def after_replay(self): pass

def test_an_interrupted_capture_leaves_nothing():
    "The optimiser is as it was, numbers can be read, and another fit trains."
    torch.manual_seed(0)
    model = small_model().to(DEVICE)
    opt = optim.AdamW(model.parameters(), lr=0.01)
    learn = Learner(model, opt, F.cross_entropy, DataBunch(DeviceLoader(DATA, 20, device=DEVICE), c=10))
    before = [dict(group) for group in opt.param_groups]
    with pytest.raises(KeyboardInterrupt): Runner([Interrupts(), CudaGraph(warmup=2, capture=CAPTURE)]).fit(1, learn)
    assert [dict(group) for group in opt.param_groups]==before
    if ON_GPU: assert not torch.cuda.is_current_stream_capturing()
    stats = AvgStatsCallback(log=None)
    Runner([stats, CudaGraph(warmup=2, capture=CAPTURE)]).fit(5, learn)
    losses = [row['train_loss'] for row in stats.history]
    assert losses[-1]<losses[0]
