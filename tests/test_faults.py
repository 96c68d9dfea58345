"""A fault at every place of a fit: what is raised, what it says, who is still called, and what is left behind.

what fails                            where
------------------------------------- ------------------------------------------------------------------------------
an error                              at each event and in each stage (loader, model, loss function, backward, step,
                                      a way out on `run.stack`), in training and in validation: the first, a middle
                                      and the last time; and so in `validate` and `get_preds`
Ctrl-C, SystemExit, out of memory,    at each event and in each stage, a middle time
an error that refuses notes, or whose
text fails
an error, with each callback of the   at six events; FAULTS=1 tries all events and stages
library, and with most of them
a second error, and a third           in `after_batch`, `after_epoch`, `after_fit` and on the way out, behind a first
                                      one at each event and in each stage
a mistake: nothing is planted         model, loss, optimiser; loader, its length, its workers; metric, log, schedule,
                                      hook, transform, scheduler; memory and disk are full
a cancellation with nothing to leave  before the first epoch, after an epoch, after the fit

Each time: the error is the planted one, and its traceback ends at the planted line. Its first note names callback and
event, or the stage, and epoch and batch. The callbacks see the events up to the fault as in a fit without one, and then
`after_batch` (if a batch has begun) and `after_fit`, once. Weights, gradients, modes, settings and random generators
are those of the moment of the fault, unless a callback restores them; all else outside the fit is as before it. The
same learner can be trained again, and another one with the same Runner gets the weights that a new Runner gives it.

Random cancellations, errors and answers are in test_contract.py; Ctrl-C at any moment is in test_interrupts.py."""
import contextlib, io, linecache, multiprocessing, os, random, resource, signal, tempfile, threading, warnings
from collections import Counter, namedtuple
from copy import deepcopy
from pathlib import Path
from traceback import walk_tb
from types import SimpleNamespace

import numpy as np, pytest, torch, torch.nn.functional as F
from fastcore.basics import listify
from torch import nn, optim
from torch.utils import data as torch_data

from lesson9.all import *
from lesson9.minibatch import DataLoader
from test_pairs import SMALL, all_callbacks, small_model, with_averages

pytestmark = pytest.mark.filterwarnings('ignore')
EPOCHS,TRAIN,VALID = 2,3,2 # the last two: batches in a pass
EVERY = 'FAULTS' in os.environ # every place with every callback of the library
STAGES = 'the loader', 'the model', 'the loss function', 'backward', "the optimiser's step"
WAY_OUT = 'a function at after_fit'

# Errors

class Planted(Exception): pass

class Frozen(Planted):
    "Like a frozen dataclass."
    def __setattr__(self, name, value): raise AttributeError(f'{name} is frozen')

class NoNotes(Planted):
    "Can't be given a note in any way."
    __notes__ = property(lambda self: None)
    def add_note(self, note): raise TypeError('no notes')

class NoText(Planted):
    def __str__(self): raise ValueError('no text')
    def __eq__(self, other): raise ValueError('not to be compared')
    __hash__ = None

KINDS = {kind.__name__: kind for kind in
         (Planted, KeyboardInterrupt, SystemExit, torch.OutOfMemoryError, Frozen, NoNotes, NoText)}

def notes_of(error): return list(getattr(error, '__notes__', None) or ())

# A fit whose places are known: each is called by its name as in a note, and the trap there may raise

Visit = namedtuple('Visit', 'scene place nth where calls state')

class Trap:
    "Note each call in `calls`, and raise the errors of `planted`: {(place, number of the call): error}."
    def __init__(self, planted=(), watch=None):
        self.planted,self.watch = dict(planted),watch # watch: a function of the place, called at each
        self.calls,self.seen = [],Counter()
        self.part,self.batch = '',-1

    def __call__(self, place, note=True):
        if note: self.calls.append(place)
        if self.watch: self.watch(place)
        n = self.seen[place]
        self.seen[place] += 1
        if error := self.planted.pop((place, n), None):
            raise error # planted

    def where(self, place):
        "The end of the note about an error at `place`, counted here and not by the Runner."
        batch  = in_batch(place) or place=='the loader'
        parts  = [f'{self.part} batch {self.batch}'] if batch else []
        epochs = self.calls.count('begin_epoch') # none in `validate`
        if epochs and place not in ('begin_fit', 'after_cancel_train', 'after_fit', WAY_OUT):
            parts.append(f'epoch {epochs-1}')
        return ', '*bool(parts) + ' of '.join(parts)

def in_batch(place):
    words = 'batch', 'pred', 'loss', 'backward', 'step', 'replay', 'model'
    return any(word in place for word in words)

def method(event, f):
    "A method for `event` that calls `f(self, event)`, and is named after the event in tracebacks."
    def called(self): return f(self, event)
    called.__code__ = called.__code__.replace(co_name=event)
    return called

class Watches(Callback):
    "Note every event, before all others. What it has on the stack is left last."
    order = -5000
    def __init__(self, trap): self.trap = trap
    def note(self, event):
        self.trap.calls.append(event)
        if event=='begin_fit': self.run.stack.callback(self.trap, WAY_OUT)
for event in events: setattr(Watches, event, method(event, Watches.note))

class Plants(Callback):
    "Call the trap at every event, after all others that may do something there."
    order = CudaGraph.order - 1
    def __init__(self, trap): self.trap = trap
for event in events: setattr(Plants, event, method(event, lambda self, event: self.trap(event, note=False)))

class Batches:
    "Always the same batches of `SMALL`."
    def __init__(self, trap, part, n): self.trap,self.part,self.n = trap,part,n
    def __len__(self): return self.n
    def __iter__(self):
        for k in range(self.n+1): # a loop asks once more than there are batches
            self.trap.part,self.trap.batch = self.part,k
            self.trap('the loader')
            if k<self.n: yield SMALL.x[8*k:8*k+8],SMALL.y[8*k:8*k+8]

class Net(nn.Module):
    def __init__(self, trap):
        super().__init__()
        self.layers,self.trap = small_model(),trap
    def children(self): return self.layers.children()
    def forward(self, xb):
        if self.trap: self.trap('the model')
        return self.layers(xb)

class SGD(optim.SGD):
    trap = None
    def step(self):
        if self.trap: self.trap("the optimiser's step")
        super().step()

def make_learner(trap, stages=True):
    "A learner that calls the trap; without `stages` only its loader does."
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = Net(trap if stages else None)
    opt   = SGD(model.parameters(), lr=0.1, momentum=0.9)
    opt.trap = model.trap
    def loss_func(pred, yb):
        trap('the loss function')
        loss = F.cross_entropy(pred, yb)
        if loss.requires_grad: loss.register_hook(lambda grad: trap('backward'))
        return loss
    data = DataBunch(Batches(trap, 'training', TRAIN), Batches(trap, 'validation', VALID), c=10)
    return Learner(model, opt, loss_func if stages else F.cross_entropy, data)

# What is left

def hooks_of(module):
    "The number of hooks of each kind, of a module or an optimiser."
    own = getattr(module, '__dict__', {}) # there may be no optimiser
    return {name: len(found) for name,found in own.items() if name.endswith('hooks') and found}

def world(learn):
    "What a fit leaves as it was, whatever happens."
    params,groups = list(learn.model.parameters()),getattr(learn.opt, 'param_groups', ())
    return dict(
        learner=[id(v) for v in (learn.model, learn.opt, learn.loss_func, learn.data)],
        grad=torch.is_grad_enabled(), anomaly=torch.is_anomaly_enabled(),
        autocast=(torch.is_autocast_enabled('cpu'), torch.get_autocast_dtype('cpu'), torch.is_autocast_cache_enabled()),
        deterministic=(torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark),
        threads=torch.get_num_threads(), handlers=[signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)],
        hooks=[hooks_of(m) for m in (*learn.model.modules(), learn.opt)], groups=[set(group) for group in groups],
        weights=[(p.requires_grad, len(p._backward_hooks or ())) for p in params],
        alive={t.ident for t in threading.enumerate()} | {p.pid for p in multiprocessing.active_children()},
        filters=list(warnings.filters))

def check_world(learn, before):
    now = world(learn)
    assert now.pop('alive')<=before['alive'] # others' threads may end meanwhile
    assert now=={k: v for k,v in before.items() if k!='alive'}

def state(learn):
    "What training changes."
    return dict(grads=[p.grad is not None for p in learn.model.parameters()],
                modes={m.training for m in learn.model.modules()}, weights=weights_of(learn),
                settings=[{k: v for k,v in g.items() if k!='params'} for g in learn.opt.param_groups],
                generators=(torch.get_rng_state().numpy().tobytes(), random.getstate(),
                            np.random.get_state()[1].tobytes()))

def weights_of(learn): return b''.join(p.detach().numpy().tobytes() for p in learn.model.parameters())

def is_idle(run):
    "Whether a Runner holds nothing of a fit, and its callbacks have nothing to do."
    names   = 'learn xb yb pred loss listeners stack'.split()
    waiting = [cb for cb in run.cbs if getattr(cb, 'waiting', None)] # losses that weren't fetched, for example
    return type(run) is Runner and not waiting and all(getattr(run, name) is None for name in names)

def measured(run):
    "What callbacks have measured in the last fit."
    rows = [row for cb in run.cbs if isinstance(cb, HistoryCallback) for row in cb.history[cb.earlier:]]
    losses = [loss for cb in run.cbs if isinstance(cb, Recorder) for loss in cb.losses[-run.n_iter:]]
    return [{k: v for k,v in row.items() if k!='seconds'} for row in rows],losses

def raised_by(f, *args):
    "Call `f`; return what was raised, or None. Nothing is printed."
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try: f(*args)
        except BaseException as e: return e # Ctrl-C too

def fit(run, learn, epochs=EPOCHS): return raised_by(run.fit, epochs, learn)

# Scenes: what has to happen so that all events come

class Replays(Callback):
    "Fire `after_replay` as `CudaGraph` does."
    order = CudaGraph.order
    def begin_batch(self):
        if self.in_train:
            self.run.end('after_replay')
            return True

SCENES = dict(plain=None, replay=None, batch=CancelBatchException, epoch=CancelEpochException,
              train=CancelTrainException)
CANCELLATIONS = tuple(kind for kind in SCENES.values() if kind)
CANCELLED = {(part, n) for part,n in (('training', 1), ('validation', 0))}

class Cancels(Callback):
    "Leave a batch of training in each epoch, and one of validation."
    order = Plants.order - 1
    def __init__(self, trap, kind): self.trap,self.kind = trap,kind
    def after_pred(self):
        late = self.kind is not CancelTrainException or self.epoch==1
        if late and (self.trap.part, self.trap.batch) in CANCELLED: raise self.kind

def make_runner(scene, trap, cbs=()):
    more = [Replays()] if scene=='replay' else [Cancels(trap, SCENES[scene])] if SCENES[scene] else []
    return Runner([Watches(trap), Plants(trap), *more, *cbs])

def tour(scene, make_cbs=list, stages=True):
    "A fit without a fault: the visits to each place, all calls, and the weights at its end."
    visits,seen = [],Counter()
    def watch(place):
        visits.append(Visit(scene, place, seen[place], trap.where(place), len(trap.calls), state(learn)))
        seen[place] += 1
    trap = Trap(watch=watch)
    learn = make_learner(trap, stages)
    run = make_runner(scene, trap, make_cbs())
    before = world(learn)
    assert fit(run, learn) is None
    check_world(learn, before)
    return SimpleNamespace(visits=visits, calls=trap.calls, weights=weights_of(learn), measured=measured(run))

TOURS = {scene: tour(scene) for scene in SCENES}

def chosen(visits, every=True):
    "Of each place, in training and in validation, the first, a middle and the last visit; or only the middle one."
    groups = {}
    for v in visits: groups.setdefault((v.place, 'validation' in v.where), []).append(v)
    for found in groups.values():
        middle  = 2*len(found)//3 # in the second epoch, and there no first batch of training
        numbers = {0, middle, len(found)-1} if every else {middle}
        yield from (found[i] for i in sorted(numbers))

def all_visits(every):
    "Of all scenes; places that the plain scene has come only from there."
    places = {v.place for v in TOURS['plain'].visits}
    return [v for scene,found in TOURS.items() for v in chosen(found.visits, every)
            if scene=='plain' or v.place not in places]

def named(v): return f'{v.place}{v.where}'

# One fault

def check_raised(found, error, note):
    "The error is the planted one, its traceback ends where it was planted, and its first note says where that is."
    assert found is error
    frame,line = [*walk_tb(found.__traceback__)][-1]
    assert linecache.getline(frame.f_code.co_filename, line).strip()=='raise error # planted'
    if not isinstance(error, NoNotes): assert notes_of(found)[0]==note

def named_place(place): return f'Plants.{place}' if place in events else place

def ends_after(place):
    "What follows an error at `place`."
    ends = ['after_batch'] if in_batch(place) and place!='after_batch' else []
    return ends + (['after_fit'] if place not in ('after_fit', WAY_OUT) else []) + [WAY_OUT]*(place!=WAY_OUT)

def check(v, error, whole, make_cbs=list, stages=True, expected=lambda first, v: v.state, again=True):
    "Plant `error` at a visit. `expected`: the state after it, from that before the fit and the visit."
    trap = Trap({(v.place, v.nth): error})
    run  = make_runner(v.scene, trap, make_cbs())
    learn = make_learner(trap, stages)
    before,first = world(learn),state(learn)
    check_raised(fit(run, learn), error, f'in {named_place(v.place)}{v.where}')
    assert trap.calls==whole.calls[:v.calls]+ends_after(v.place)
    assert state(learn)==expected(first, v)
    assert is_idle(run)
    check_world(learn, before)
    check_next(run, learn, trap, whole, stages, again)

def check_next(run, learn, trap, whole=TOURS['plain'], stages=True, again=True):
    "Another learner gets the weights that a new Runner gives it, and this one can be trained, too."
    trap.calls.clear()
    assert fit(run, other := make_learner(trap, stages)) is None
    assert trap.calls==whole.calls
    assert weights_of(other)==whole.weights and measured(run)==whole.measured
    assert is_idle(run)
    if again: assert fit(run, learn) is None

def test_all_places():
    assert {v.place for v in all_visits(False)}=={*events, *STAGES, WAY_OUT}
    assert len(all_visits(True))>50

@pytest.mark.parametrize('v', all_visits(True), ids=named)
def test_an_error(v): check(v, Planted(), TOURS[v.scene])

def test_gradients_of_a_failed_fit():
    "They don't enter the next one."
    left = [v for v in all_visits(True) if any(v.state['grads'])]
    assert {v.place for v in left}=={'after_backward', "the optimiser's step", 'after_step'}
    for v in left:
        trap = Trap({(v.place, v.nth): Planted()})
        learn,twin = make_learner(trap),make_learner(trap)
        assert fit(make_runner('plain', trap), learn) and any(state(learn)['grads'])
        for part in 'model','opt': getattr(twin, part).load_state_dict(deepcopy(getattr(learn, part).state_dict()))
        for again in learn,twin: assert fit(Runner(), again) is None
        assert weights_of(learn)==weights_of(twin)

OTHERS = torch.OutOfMemoryError, SystemExit, NoNotes, NoText

@pytest.mark.parametrize('i,v', [*enumerate(all_visits(False))], ids=lambda x: named(x) if isinstance(x, Visit) else '')
def test_other_kinds(i, v):
    kinds = {KeyboardInterrupt, Frozen, *(OTHERS if EVERY else [OTHERS[i%4]])}
    if v.place==WAY_OUT: kinds -= {Frozen} # Python's `ExitStack` can't raise such an error
    for kind in kinds: check(v, kind(), TOURS[v.scene])

# One fault, with a callback of the library

def names(folder): return [type(cb).__name__ for cb in sum(all_callbacks(folder), [])]

PLAIN = {(v.place, v.nth): v.state for v in TOURS['plain'].visits}
FEW = 'begin_fit begin_batch after_backward after_batch after_epoch after_fit'.split()
HAS_GRADS = 'after_backward', "the optimiser's step", 'after_step' # in the last batch of a group
EXPECTED = dict( # what these callbacks restore, or put in order
    LRFinder=lambda first, v: first,
    Seed=lambda first, v: {'generators': first['generators']},
    CudaGraph=lambda first, v: {'settings': first['settings']},
    EMACallback=lambda first, v: {'weights': PLAIN[v.place,v.nth]['weights']},
    GradientAccumulation=lambda first, v: {'grads': [v.place in HAS_GRADS]*4})

with tempfile.TemporaryDirectory() as folder: NAMES = names(Path(folder))

TOGETHER = [n for n in NAMES if n not in ('AvgStatsCallback', 'EMACallback', 'LRFinder', 'Compile', 'CudaGraph')]

@pytest.mark.parametrize('used', [*([name] for name in NAMES), TOGETHER], ids=[*NAMES, 'together'])
def test_with_callbacks_of_the_library(used, tmp_path):
    def make_cbs():
        if used==['Compile']: torch._dynamo.reset()
        return with_averages([cb for name,cb in zip(NAMES, sum(all_callbacks(tmp_path), [])) if name in used])
    def expected(first, v):
        found = v.state
        for name in used: found = found | EXPECTED.get(name, lambda first, v: {})(first, v)
        return found
    stages = used not in (['Compile'], ['CudaGraph']) # these don't call the model at each batch
    whole  = tour('plain', make_cbs, stages)
    for v in chosen(whole.visits, False):
        if EVERY or v.place in (['after_backward'] if used==['Compile'] else FEW):
            check(v, Planted(), whole, make_cbs, stages, expected, again=EVERY)

def test_one_cycle_sets_back():
    for v in chosen(TOURS['plain'].visits, False):
        if v.place==WAY_OUT: continue # left later
        trap  = Trap({(v.place, v.nth): (error := Planted())})
        learn = make_learner(trap)
        before,settings = world(learn),state(learn)['settings']
        run = one_cycle_runner(learn, 0.3, cbs=[Watches(trap), Plants(trap)], progress=False)
        check_raised(fit(run, learn), error, f'in {named_place(v.place)}{v.where}')
        assert state(learn)['settings']==settings and is_idle(run)
        check_world(learn, before)

# A second error

class Later(Callback):
    "Raise `errors` at their events, once the trap has raised the first."
    order = Plants.order + 1
    def __init__(self, trap, first, errors): self.trap,self.first,self.errors = trap,first,errors
    def fail(self, event):
        if self.first in self.trap.planted: return
        if error := self.errors.pop(event, None): raise error
for event in 'after_batch', 'after_epoch', 'after_fit': setattr(Later, event, method(event, Later.fail))

def two_errors(v, first, later, out=None, again=True):
    "Plant `first` at a visit, then errors at later events, and one on the way out. Return what is raised."
    trap = Trap({(v.place, v.nth): first} | ({(WAY_OUT, 0): out} if out else {}))
    left = dict(later)
    run  = make_runner(v.scene, trap, [Later(trap, (v.place, v.nth), left)])
    learn = make_learner(trap)
    before = world(learn)
    found = fit(run, learn)
    assert trap.calls==TOURS[v.scene].calls[:v.calls]+ends_after(v.place)
    assert is_idle(run)
    check_world(learn, before)
    left.clear() # what came no more
    if again: check_next(run, learn, trap, TOURS[v.scene])
    return found

def also(error):
    text = 'its text failed' if type(error) is NoText else str(error)
    return f'There was also {type(error).__name__}: {text}'

def at_once(place): return next(v for v in TOURS['plain'].visits if v.place==place)

@pytest.mark.parametrize('v', [v for v in all_visits(False) if v.place!=WAY_OUT], ids=named)
def test_a_second_error(v):
    first,out = Planted('first'),OSError('way out')
    later = {event: OSError(event) for event in ('after_batch', 'after_epoch', 'after_fit')}
    reached = [later[event] for event in (v.place, *ends_after(v.place)) if event in later]
    found = two_errors(v, first, later, out)
    assert found is first
    assert notes_of(first)==[f'in {named_place(v.place)}{v.where}', *map(also, [*reached, out])]
    while found := found.__context__: assert isinstance(found, CANCELLATIONS) # no other error is its reason

def test_kinds_of_two_errors():
    for first in KINDS.values():
        for second in KINDS.values():
            one,two = first('one'),second('two')
            found = two_errors(at_once('the model'), one, {'after_batch': two}, again=False)
            ends = not issubclass(second, Exception) and issubclass(first, Exception)
            assert found is (two if ends else one)
            if not isinstance(found, NoNotes): assert notes_of(found)[1:]==[also(one if ends else two)]

# What people get wrong

class Gives(Net):
    "A model whose outputs go through `f`."
    f = None
    def forward(self, xb): return type(self).f(super().forward(xb))

def model_that(f):
    def change(learn): learn.model.__class__ = type('Gives', (Gives,), {'f': staticmethod(f)})
    return change

def loss_that(f):
    def change(learn): learn.loss_func = lambda pred, yb: f(F.cross_entropy(pred, yb, reduction='none'))
    return change

def setting(**changes):
    "Set `model.name` and so on: the object, an underscore, and the attribute."
    def change(learn):
        for k,v in changes.items():
            part,_,name = k.partition('_')
            setattr(getattr(learn, part), name, v)
    return change

def fails(*args): raise Planted('planted')
def too_large(x): return torch.empty(2**52) # bytes that no machine has
def on_meta(x): return x.to('meta')

def without_grad(learn):
    for p in learn.model.parameters(): p.requires_grad_(False)

def no_opt(learn): learn.opt = None
def text_as_lr(learn): learn.opt.param_groups[0]['lr'] = '0.1'
def loader(**loaders):
    "Set `train_dl` or `valid_dl`."
    def change(learn): vars(learn.data).update(loaders)
    return change

def at_first(who, hint=''): return f'in {who}, training batch 0 of epoch 0{hint}'

GOOD = SMALL.x[:8],SMALL.y[:8]
NO_GRAD = at_first('backward', '; the loss needs no gradient: nothing behind it is trained')

MISTAKES = { # how a learner is changed, the error, what it says, the note
    'a model that gives None': (
        model_that(lambda out: None), TypeError, 'NoneType',
        at_first('the loss function', '; the model returned None')),
    'a model that gives a tuple': (
        model_that(lambda out: (out, out)), TypeError, 'tuple', at_first('the loss function')),
    'a model that raises': (model_that(fails), Planted, '', at_first('the model')),
    'outputs on another device': (model_that(on_meta), RuntimeError, 'meta', at_first('the loss function')),
    'too little memory': (model_that(too_large), RuntimeError, 'memory', at_first('the model')),
    'a loss function that raises': (loss_that(fails), Planted, '', at_first('the loss function')),
    'a loss of several numbers': (
        loss_that(lambda loss: loss), RuntimeError, 'scalar',
        at_first('backward', '; the loss has shape (8,), and should be one number')),
    'a loss that is None': (
        loss_that(lambda loss: None), AttributeError, 'NoneType',
        at_first('backward', '; the loss is a NoneType, and should be a tensor')),
    'a loss that is a float': (
        loss_that(lambda loss: loss.mean().item()), AttributeError, 'float',
        at_first('backward', '; the loss is a float, and should be a tensor')),
    'a loss without a gradient': (loss_that(lambda loss: loss.mean().detach()), RuntimeError, 'require grad', NO_GRAD),
    'a frozen model': (without_grad, RuntimeError, 'require grad', NO_GRAD),
    'a loss on another device': (
        loss_that(lambda loss: on_meta(loss.mean())), NotImplementedError, 'meta', at_first('backward')),
    'no optimiser': (no_opt, AttributeError, 'zero_grad', "in the optimiser's zero_grad, epoch 0"),
    'an optimiser that fails to zero': (
        setting(opt_zero_grad=fails), Planted, '', "in the optimiser's zero_grad, epoch 0"),
    'an optimiser that fails to step': (setting(opt_step=fails), Planted, '', at_first("the optimiser's step")),
    'a setting that is a text': (text_as_lr, TypeError, 'str', at_first("the optimiser's step")),
    'a model without modes': (setting(model_train=fails), Planted, '', 'in TrainEvalCallback.begin_epoch, epoch 0'),
}

def end_workers(error):
    "End the workers of PyTorch's loader: the traceback of its error keeps them alive, as in any loop."
    for frame,_ in walk_tb(getattr(error, '__traceback__', None)):
        if end := getattr(frame.f_locals.get('self'), '_shutdown_workers', None): end()
    for thread in threading.enumerate():
        if thread.name=='QueueFeederThread': thread.join(10)

def check_mistake(learn, run, trap, kind, said, note):
    "Train with a mistake: which error it is, what it says and notes, and what is left."
    trap.calls.clear()
    before = world(learn)
    found = fit(run, learn)
    end_workers(found)
    assert type(found) is kind and said in str(found), repr(found)
    assert notes_of(found)==([note] if note else [])
    in_batches = [call for call in trap.calls if call in ('begin_batch', 'after_batch')]
    assert in_batches==['begin_batch', 'after_batch']*(len(in_batches)//2)
    assert trap.calls[-2:]==(['after_fit', WAY_OUT] if note else []) and trap.calls.count('after_fit')==bool(note)
    assert is_idle(run)
    check_world(learn, before)

def check_learner(change, *expected):
    "A mistake in a learner; the next one is as it should be."
    trap = Trap()
    run,learn = make_runner('plain', trap),make_learner(trap)
    change(learn)
    check_mistake(learn, run, trap, *expected)
    trap.calls.clear()
    assert fit(run, other := make_learner(trap)) is None
    assert trap.calls==TOURS['plain'].calls and weights_of(other)==TOURS['plain'].weights

@pytest.mark.parametrize('name', MISTAKES)
def test_a_mistake(name): check_learner(*MISTAKES[name])

# Loaders

class Fails:
    "A loader that gives good batches, and then fails: when asked for one, at the start of a pass, or for its length."
    def __init__(self, batch=9, start=9, length=9, n=2):
        self.batch,self.n = batch,n
        self.left = dict(start=start, length=length) # how many times it goes well
    def count(self, name):
        if self.left[name]==0: fails()
        self.left[name] -= 1
    def __len__(self):
        self.count('length')
        return self.n
    def __iter__(self):
        self.count('start')
        return map(self.get, range(self.n))
    def get(self, k): return fails() if k==self.batch else GOOD

class Samples(torch_data.Dataset):
    "Samples of which one does something in a worker."
    def __init__(self, act): self.act = act
    def __len__(self): return 24
    def __getitem__(self, i):
        if i==8: self.act()
        return SMALL[i]

def workers(act): return torch_data.DataLoader(Samples(act), 8, num_workers=2)

class Killed:
    "A loader whose second worker is killed when the second batch is asked for: its error may come at any moment then."
    def __init__(self):
        self.asked = multiprocessing.Event()
        self.dl = workers(self.kill)
    def kill(self):
        self.asked.wait(60)
        os.kill(os.getpid(), signal.SIGKILL)
    def __len__(self): return len(self.dl)
    def __iter__(self):
        for xb,yb in self.dl:
            yield xb,yb
            self.asked.set()

SECOND = 'in the loader, training batch 1 of epoch 0'

LOADERS = { # as above; without a note, the fit has not begun
    'fails at the second batch': (loader(train_dl=Fails(batch=1)), Planted, '', SECOND),
    'fails at the last batch, in validation': (
        loader(valid_dl=Fails(batch=1)), Planted, '', 'in the loader, validation batch 1 of epoch 0'),
    'fails at the start of a pass': (
        loader(train_dl=Fails(start=1)), Planted, '', 'in the loader, training batch 0 of epoch 1'),
    'has no length at first': (loader(train_dl=Fails(length=0)), Planted, '', ''),
    'has no length at the start': (loader(train_dl=Fails(length=1)), Planted, '', "in the loader's length, epoch 0"),
    'has no length at the end': (
        loader(valid_dl=Fails(length=2)), Planted, '', 'in the loader, validation batch 2 of epoch 0'),
    'gives no batch': (loader(train_dl=iter(())), ValueError, 'no batch', at_first('the loader')),
    'can be used once': (
        loader(train_dl=iter([GOOD])), ValueError, 'only once', 'in the loader, training batch 0 of epoch 1'),
    'gives three parts': (
        loader(train_dl=[GOOD, (*GOOD, 0)]), TypeError, 'length 3',
        'in what the loader gave, training batch 1 of epoch 0'),
    'has a sample that fails': (loader(train_dl=DataLoader(Samples(fails), 8)), Planted, '', SECOND),
    'has a worker that fails': (loader(train_dl=workers(fails)), Planted, 'DataLoader worker', SECOND),
    'has a worker that is killed': (loader(train_dl=Killed()), RuntimeError, 'DataLoader worker (pid', SECOND),
    'gives steps of workers': (loader(train_dl=StepsLoader(workers(fails), 3)), Planted, 'DataLoader worker', SECOND),
    'moves what workers give': (loader(train_dl=Prefetch(workers(fails), 'cpu')), Planted, 'DataLoader worker', SECOND),
}

@pytest.mark.parametrize('name', LOADERS)
def test_a_loader_that(name): check_learner(*LOADERS[name])

# What a callback of the library is given

def metric_of(value):
    def metric(pred, yb): return value
    return metric

class Measure:
    "A metric with methods, one of which fails."
    def __init__(self, name): setattr(self, name, fails)
    def update(self, pred, yb): pass
    def compute(self): return torch.tensor(1.)
    def reset(self): pass

class Breaks(optim.lr_scheduler.LRScheduler):
    "A scheduler that fails at its second step; the first is its beginning."
    def get_lr(self): return fails() if self.last_epoch else [0.1]

@contextlib.contextmanager
def full_disk():
    "No file can grow."
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, old[1]))
        yield
    finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)

class Full(Callback):
    "Let the disk be full during a fit."
    order = Watches.order - 1
    def begin_fit(self): self.run.stack.enter_context(full_disk())

def on_full_disk(cb): return [stats(), cb, Full()]

def stats(*args, log=None, **kwargs): return AvgStatsCallback(*args, log=log, **kwargs)

GIVEN = { # what makes a callback, or several, of a folder and a learner; then as above
    'a metric that fails': (lambda f, learn: stats(fails), Planted, '', at_first('AvgStatsCallback.after_loss')),
    'a metric that gives None': (
        lambda f, learn: ProgressCallback(metric_of(None)), RuntimeError, 'None',
        at_first('ProgressCallback.after_loss')),
    'a metric that gives several numbers': (
        lambda f, learn: stats(metric_of(torch.ones(2))), ValueError, 'metric must be one number',
        at_first('AvgStatsCallback.after_loss')),
    'a metric for validation that fails': (
        lambda f, learn: stats(valid_metrics=fails), Planted, '',
        'in AvgStatsCallback.after_loss, validation batch 0 of epoch 0'),
    'a metric object whose update fails': (
        lambda f, learn: Metrics(m=Measure('update')), Planted, '', at_first('Metrics.after_loss')),
    'a metric object whose compute fails': (
        lambda f, learn: Metrics(m=Measure('compute'), train=False), Planted, '', 'in Metrics.after_epoch, epoch 0'),
    'a log that fails': (lambda f, learn: stats(log=fails), Planted, '', 'in AvgStatsCallback.after_epoch, epoch 0'),
    'a schedule that fails': (
        lambda f, learn: ParamScheduler('lr', fails), Planted, '', at_first('ParamScheduler.begin_batch')),
    'a schedule that gives None': (
        lambda f, learn: ParamScheduler('lr', lambda pos: None), TypeError, 'None', at_first("the optimiser's step")),
    'a hook that fails': (lambda f, learn: HooksCallback(fails), Planted, '', at_first('the model')),
    'a transform that fails': (
        lambda f, learn: BatchTransform(fails), Planted, '', at_first('BatchTransform.begin_batch')),
    'a transform that gives no pair': (
        lambda f, learn: BatchTransform(lambda x, y: x, on='both'), TypeError, 'pair',
        at_first('BatchTransform.begin_batch')),
    'a column that no callback measures': (
        lambda f, learn: EarlyStopping('valid_f1'), ValueError, 'valid_f1', 'in EarlyStopping.begin_fit'),
    'a scheduler that fails': (
        lambda f, learn: SchedulerCallback(Breaks(learn.opt), 'step'), Planted, '',
        at_first('SchedulerCallback.after_batch')),
    'a full disk for rows': (
        lambda f, learn: on_full_disk(CSVLogger(f/'rows')), OSError, 'too large', 'in CSVLogger.after_epoch, epoch 0'),
    'a full disk for weights': (
        lambda f, learn: on_full_disk(SaveBest(f/'best')), OSError, 'too large', 'in SaveBest.after_epoch, epoch 0'),
    'a full disk for checkpoints': (
        lambda f, learn: on_full_disk(Checkpoint(f/'checkpoints', every=2)), OSError, 'too large',
        'in Checkpoint.begin_fit'),
}

@pytest.mark.parametrize('name', GIVEN)
def test_given(name, tmp_path):
    make_cbs,*expected = GIVEN[name]
    trap  = Trap()
    learn = make_learner(trap)
    run   = make_runner('plain', trap, listify(make_cbs(tmp_path, learn)))
    for _ in range(2): check_mistake(learn, run, trap, *expected) # again, in the same way
    learn.opt.param_groups[0]['lr'] = 0.1 # what a schedule has set stays
    assert fit(Runner(), learn) is None

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device: its memory was not filled')
def test_the_memory_of_a_gpu():
    trap = Trap()
    run,learn = make_runner('plain', trap, [DeviceCallback('cuda')]),make_learner(trap)
    def fills_it(out): return torch.empty(2**52, device='cuda')
    model_that(fills_it)(learn)
    check_mistake(learn, run, trap, torch.OutOfMemoryError, 'out of memory', at_first('the model'))
    assert fit(run, make_learner(trap)) is None

# Cancellations with nothing to leave

@pytest.mark.parametrize('place', ['begin_fit', 'after_epoch', 'after_fit', WAY_OUT])
def test_a_cancellation_with_nothing_to_leave(place):
    v,cancel = at_once(place),CancelBatchException()
    trap = Trap({(v.place, v.nth): cancel})
    run,learn = make_runner('plain', trap),make_learner(trap)
    before = world(learn)
    found  = fit(run, learn)
    assert type(found) is RuntimeError and found.__cause__ is cancel
    check_raised(cancel, cancel, f'in {named_place(place)}{v.where}')
    assert trap.calls==TOURS['plain'].calls[:v.calls]+ends_after(place)
    check_world(learn, before)
    check_next(run, learn, trap)

# Validation alone

@pytest.mark.parametrize('call', ['validate', 'get_preds'])
def test_validation(call):
    def once(trap):
        learn = make_learner(trap)
        learn.model.layers[0].eval() # modes of its own
        run = make_runner('plain', trap)
        return run,learn,lambda: getattr(run, call)(learn)
    visits,seen = [],Counter()
    def watch(place):
        visits.append(Visit('plain', place, seen[place], trap.where(place), len(trap.calls), None))
        seen[place] += 1
    trap = Trap(watch=watch)
    result = once(trap)[-1]()
    places = list(chosen(visits))
    assert len(places)>(10 if call=='validate' else 8)
    for v in places:
        error = Planted()
        again = Trap({(v.place, v.nth): error})
        run,learn,f = once(again)
        before,modes = world(learn),[m.training for m in learn.model.modules()]
        check_raised(raised_by(f), error, f'in {named_place(v.place)}{v.where}')
        assert again.calls==trap.calls[:v.calls]+ends_after(v.place)
        assert is_idle(run)
        check_world(learn, before)
        assert [m.training for m in learn.model.modules()]==modes
        assert repr(f())==repr(result)
