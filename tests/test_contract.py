"""The Runner keeps its contract: random fits, each compared with what a model of the contract predicts.

The model knows the tables of nbs/04_callbacks.ipynb and nothing of the Runner's code. A case is plain data: a failure
prints the smallest one found, and `check(Case(...))` runs it again. `make fuzz` tries many thousands."""
import os, random, warnings
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np, torch
from torch import nn, optim

from lesson9.all import (Callback, CancelBatchException, CancelEpochException, CancelTrainException, DataBunch,
                         Learner, Runner)

CASES = int(os.environ.get('FUZZ', '300'))
SEED  = int(os.environ.get('SEED', '0'))

# What the table of events says: which cancellations leave from where, as the first letters of batch, epoch and train

CAN_LEAVE = dict(
    begin_fit='t', begin_epoch='et', begin_batch='bet', after_pred='bet', after_loss='bet', after_backward='bet',
    after_step='bet', after_cancel_batch='et', after_batch='et', begin_validate='et', after_cancel_epoch='t',
    after_epoch='t', after_cancel_train='', after_fit='')
EVENTS  = list(CAN_LEAVE)
IN_BATCH = [e for e in EVENTS if 'b' in CAN_LEAVE[e]] + ['after_cancel_batch', 'after_batch']
OUTSIDE = dict(train_dl='et', valid_dl='et', model='bet', loss='bet', backward='bet', step='bet', stack='')

CANCELS = dict(batch=CancelBatchException, epoch=CancelEpochException, train=CancelTrainException)
TRUE    = {'True': True, 'np.True_': np.True_}
OTHER   = {'False': False, '1': 1, 'yes': 'yes', '[0]': [0], 'np.int64(1)': np.int64(1), 'np.False_': np.False_}
RAISES  = ['error', 'interrupt', *CANCELS]
PUSHES  = ['push', 'push context', *(f'push {kind}' for kind in RAISES)]
MADE    = dict(tensor=TypeError, fit=RuntimeError) # what a tensor as an answer raises, and a fit inside a fit
ACTIONS = [*TRUE, *OTHER, *RAISES, *PUSHES, *MADE]
COUNTS  = -20 # the order of the callback that counts

seen = Counter() # what the cases covered

# A case

class Brief:
    "Shown as the call that makes it, without what is as usual."
    def __repr__(self):
        usual = type(self)()
        args = [f'{k}={v!r}' for k,v in vars(self).items() if v!=getattr(usual, k)]
        return f'{type(self).__name__}({", ".join(args)})'

@dataclass(repr=False)
class Cb(Brief):
    order:int = 0
    events:tuple = ()                       # listens to these, and to those of `acts`
    acts:dict = field(default_factory=dict) # {(event, number of the call): action}

@dataclass(repr=False)
class Run(Brief):
    epochs:int = 1   # None: `validate`
    train:int = 1    # batches
    valid:int = 0    # 0: no loader for validation
    sized:bool = True
    linear:bool = False # an `nn.Linear` with PyTorch's SGD
    grad:bool = True    # outside
    acts:dict = field(default_factory=dict) # {(key of OUTSIDE, number of the call): what it raises}

@dataclass(repr=False)
class Case(Brief):
    cbs:list  = field(default_factory=list)
    runs:list = field(default_factory=lambda: [Run()]) # one after the other, with one `Runner`

# The model: each part returns None, STOP, or what leaves it

STOP = 'stop'

@dataclass
class Out:
    kind:str
    source:tuple  # who raised it: (callback or key of OUTSIDE, event, number of the call)
    can_leave:str
    others:int = 0     # errors raised beside it, which are its notes

    def leaves(self, stage): return self.kind==stage and stage[0] in self.can_leave

def worst(*outs):
    "Ctrl-C before errors before cancellations, of which the widest; the first of equals. Errors become its notes."
    outs = [o for o in outs if isinstance(o, Out)]
    if not outs: return None
    first = min(outs, key=lambda o: ['interrupt', 'error', 'train', 'epoch', 'batch'].index(o.kind))
    for o in outs:
        if o is first: continue
        first.others += (o.kind not in CANCELS) + o.others
    return first

class Model:
    "What a `Runner` with the callbacks of `case` has to do."
    def __init__(self, case):
        self.cbs = sorted(enumerate(case.cbs), key=lambda icb: icb[1].order)
        self.calls,self.pushed = Counter(),0

    def run(self, run):
        "Predict one run; afterwards `trace` has the calls, and `n_iter` and so on the final state."
        self.r,self.trace,self.stack,self.outside = run,[],[],Counter()
        self.listeners = self.cbs
        if run.epochs is None: # the callback of `validate` that averages comes behind those of the same order
            self.listeners = sorted([*self.cbs, (None, Cb())], key=lambda icb: icb[1].order)
        self.n_iter,self.epoch,self.n_epochs,self.averaged = 0,None,0.,[]
        self.lengths = dict(train=run.train, valid=run.valid) if run.sized else dict(train=None, valid=None)
        self.facts = dict(grad=True) if run.epochs is not None else {}
        out = self.skipped = self.ask('begin_fit')
        if not out: out = self.epochs() if run.epochs is not None else self.only_validate()
        if isinstance(out, Out) and out.leaves('train'): out = self.end('after_cancel_train')
        out = worst(out, self.end('after_fit'))
        while self.stack:
            i,n,kind = self.stack.pop()
            self.trace.append((i, 'stack', dict(n=n)))
            if kind!='none': out = worst(out, Out(kind, (i, 'stack', n), ''))
        return out

    def epochs(self):
        self.dirty = False
        for epoch in range(self.r.epochs):
            self.epoch,self.n_epochs = epoch,float(epoch)
            out = self.training()
            if isinstance(out, Out) and out.leaves('epoch'): out = worst(self.end('after_cancel_epoch'))
            if not out: out = self.end('after_epoch')
            if out: return out

    def training(self):
        out = self.ask('begin_epoch')
        if isinstance(out, Out): self.dirty = None # either: `in_train` may not have been set
        if not out:
            out = self.batches('train')
            if isinstance(out, Out): self.dirty = False
        if isinstance(out, Out): return out
        return self.validation() if self.r.valid else None

    def validation(self):
        outer,self.facts = self.facts,{}
        out = self.ask('begin_validate')
        if not out: out = self.batches('valid')
        self.facts = outer
        return worst(out)

    def only_validate(self):
        out = self.validation()
        return None if out and out.leaves('epoch') else out

    def batches(self, part):
        count = getattr(self.r, part)
        for i in range(count+1): # the loader is asked once more than it has batches
            if out := self.happens(f'{part}_dl'): return out
            if i<count and (out := self.batch(part, i)): return out
        self.lengths[part] = count

    def batch(self, part, i):
        train = part=='train'
        outer,self.i = self.facts,i
        self.facts = dict(grad=train, in_train=train, training=train, iter=i, iters=self.lengths[part],
                          n_iter=self.n_iter, epoch=self.epoch, pred=False, loss=False)
        if train: self.facts['dirty'] = self.dirty
        out = self.steps(train)
        if isinstance(out, Out) and out.kind in CANCELS:
            if train: self.dirty = False
        self.facts.pop('dirty', None)
        if isinstance(out, Out) and out.leaves('batch'): out = self.end('after_cancel_batch')
        if train:
            self.n_iter += 1
            self.n_epochs = self.epoch + (i+1)/self.r.train
        self.facts['n_iter'] = self.n_iter
        out = worst(out, self.end('after_batch'))
        self.facts = outer
        return out

    def steps(self, train):
        if out := self.ask('begin_batch'): return out
        self.facts.pop('dirty', None)
        if out := self.happens('model'): return out
        self.facts['pred'] = True
        if out := self.ask('after_pred'): return out
        if out := self.happens('loss'): return out
        self.facts['loss'] = True
        if out := self.ask('after_loss'): return out
        if not train: return None
        if out := self.happens('backward'): return out
        self.dirty = True
        if out := self.ask('after_backward'): return out
        if out := self.happens('step'): return out
        if out := self.ask('after_step'): return out
        self.dirty = False

    def ask(self, event):
        "Call listeners up to the first that returns True."
        for i,cb in self.listeners:
            if i is None:
                if event=='after_loss': self.averaged.append(self.i)
            elif out := self.call(i, cb, event): return out

    def end(self, event):
        "Call all listeners."
        outs = [self.call(i, cb, event) for i,cb in self.cbs]
        return worst(*outs) or (STOP if STOP in outs and event=='after_epoch' else None)

    def call(self, i, cb, event):
        if event not in listens(cb): return
        n = self.calls[i,event]
        self.calls[i,event] += 1
        facts = dict(self.facts)
        if event=='after_batch' and cb.order<COUNTS: facts.pop('n_iter', None) # not counted yet
        self.trace.append((i, event, facts))
        action = cb.acts.get((event, n))
        if action: seen[event,action] += 1
        if action in TRUE: return STOP
        if action in PUSHES:
            self.stack.append((i, self.pushed, 'none' if action in ('push', 'push context') else action.split()[1]))
            self.pushed += 1
        if action in RAISES: return Out(action, (i, event, n), CAN_LEAVE[event])
        if action in ('tensor', 'fit'): return Out('error', MADE[action], '')

    def happens(self, place):
        n = self.outside[place]
        self.outside[place] += 1
        kind = self.r.acts.get((place, n))
        if kind: seen[place,kind] += 1
        return kind and Out(kind, (place, n), OUTSIDE[place])

def listens(cb): return {*cb.events, *(event for event,_ in cb.acts)}

# The real thing

class Boom(ValueError): pass

class World:
    "What the callbacks, the model and so on of a case share: what was called, what was raised."
    def __init__(self, case):
        self.calls,self.raised,self.value,self.pushed = Counter(),{},'outside',0

    def start(self, run): self.r,self.trace,self.outside = run,[],Counter()

    def throw(self, kind, source):
        e = self.raised[source] = {'error': Boom, 'interrupt': KeyboardInterrupt, **CANCELS}[kind](source)
        raise e

    def happens(self, place):
        n = self.outside[place]
        self.outside[place] += 1
        if kind := self.r.acts.get((place, n)): self.throw(kind, (place, n))

    def call(self, cb, event):
        run,i,n = cb.run,cb.i,self.calls[cb.i,event]
        self.calls[i,event] += 1
        self.trace.append((i, event, dict(
            grad=torch.is_grad_enabled(), in_train=run.in_train, training=run.model.training, epoch=run.epoch,
            n_iter=run.n_iter, iter=getattr(run, 'iter', None), iters=run.iters, pred=run.pred is not None,
            loss=run.loss is not None, dirty=any(p.grad is not None for p in run.model.parameters()))))
        action = cb.cb.acts.get((event, n))
        if action in PUSHES: return self.push(cb, action)
        if action in RAISES: self.throw(action, (i, event, n))
        if action=='fit': run.fit(1, run.learn)
        if action=='tensor': return torch.tensor(True)
        return (TRUE | OTHER).get(action)

    def push(self, cb, action):
        k,old = self.pushed,self.value
        self.pushed,self.value = k+1,k
        stack = cb.run.stack
        if action=='push context': stack.enter_context(torch.autocast('cpu'))
        def back():
            self.trace.append((cb.i, 'stack', dict(n=k)))
            self.value = old
            kind = action.split()[-1]
            if kind in RAISES: self.throw(kind, (cb.i, 'stack', k))
        stack.callback(back)

@cache
def cb_class(events):
    cls = type('Cb', (Callback,), {'__init__': init_cb})
    for event in events: setattr(cls, event, lambda self, event=event: self.world.call(self, event))
    return cls

def init_cb(self, world, i, cb): self.world,self.i,self.cb,self.order = world,i,cb,cb.order

class Loader:
    def __init__(self, world, place, count): self.world,self.place,self.count = world,place,count
    def __iter__(self):
        for k in range(self.count):
            self.world.happens(self.place)
            yield torch.full((k+1, 1), k+1.), torch.zeros(k+1)
        self.world.happens(self.place)

class SizedLoader(Loader):
    def __len__(self): return self.count

class Plain:
    "A model of one weight, and its optimiser."
    training = True
    def __init__(self, world): self.world,self.w = world,torch.ones((), requires_grad=True)
    def parameters(self): return [self.w]
    def train(self, mode=True): self.training = mode
    def eval(self): self.train(False)
    def __call__(self, xb):
        self.world.happens('model')
        return self.w*xb
    def step(self): self.world.happens('step')
    def zero_grad(self): self.w.grad = None

class Linear(nn.Linear):
    def __init__(self, world):
        super().__init__(1, 1, bias=False)
        self.world = world
        nn.init.ones_(self.weight)
    def forward(self, xb):
        self.world.happens('model')
        return super().forward(xb)

class SGD(optim.SGD):
    def __init__(self, world, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.world = world
    def step(self):
        self.world.happens('step')
        super().step()

def make_learner(world, run):
    model = (Linear if run.linear else Plain)(world)
    opt = SGD(world, model.parameters(), lr=0.) if run.linear else model
    def loss_func(pred, yb):
        world.happens('loss')
        loss = pred.mean()
        if loss.requires_grad: loss.register_hook(lambda grad: world.happens('backward'))
        return loss
    for p in model.parameters(): p.grad = torch.ones_like(p) # of an earlier fit
    kind = SizedLoader if run.sized else Loader
    valid_dl = kind(world, 'valid_dl', run.valid) if run.valid else None
    data = DataBunch(kind(world, 'train_dl', run.train), valid_dl)
    return Learner(model, None if run.epochs is None else opt, loss_func, data)

def outside(learn):
    "Whatever a fit has to leave as it was."
    hooks = {k: len(v) for k,v in vars(learn.model).items() if k.endswith('hooks')}
    groups = [{k: v for k,v in g.items() if k!='params'} for g in getattr(learn.opt, 'param_groups', ())]
    return dict(grad=torch.is_grad_enabled(), autocast=torch.is_autocast_enabled('cpu'), hooks=hooks, groups=groups,
                deterministic=torch.are_deterministic_algorithms_enabled(), filters=list(warnings.filters),
                torch=torch.get_rng_state().numpy().tobytes(), numpy=np.random.get_state()[1].tobytes(),
                python=random.getstate())

def check(case):
    "Run `case` and the model of it, and compare."
    world,model = World(case),Model(case)
    run = Runner([cb_class(tuple(sorted(listens(cb))))(world, i, cb) for i,cb in enumerate(case.cbs)])
    for r in case.runs:
        world.start(r)
        learn = make_learner(world, r)
        with torch.set_grad_enabled(r.grad):
            before,found,result = outside(learn),None,None
            try: result = run.validate(learn) if r.epochs is None else run.fit(r.epochs, learn)
            except BaseException as e: found = e # Ctrl-C too
            after = outside(learn)
        if r.epochs is None and not r.valid:
            assert isinstance(found, ValueError) and not world.trace, found
            continue
        out = model.run(r)
        compare_traces(world.trace, model.trace)
        if r.epochs is None and not out and not model.averaged: # there's nothing to average
            assert type(found) is RuntimeError, repr(found)
            found = None
        compare_raised(found, out, world.raised)
        for k in before: assert after[k]==before[k], f'{k} changed'
        assert world.value=='outside'
        left = {k: v for k in 'learn xb yb pred loss listeners stack'.split() if (v := getattr(run, k)) is not None}
        assert not left, left
        assert run.n_iter==model.n_iter, (run.n_iter, model.n_iter)
        if model.epoch is not None: assert run.epoch==model.epoch
        if r.sized and not any(cb.order<COUNTS for cb in case.cbs): assert run.n_epochs==model.n_epochs
        if result is not None:
            n = sum(i+1 for i in model.averaged)
            assert result==[sum((i+1)**2 for i in model.averaged)/n] if n else not result, (result, model.averaged)
        seen['fits' if r.epochs is not None else 'validations'] += 1
        seen['nothing' if not out else 'RuntimeError' if out.kind in CANCELS else out.kind] += 1
        seen['an error with notes'] += bool(out and out.others)

def compare_traces(found, expected):
    for k,((i,event,facts),(j,wanted,known)) in enumerate(zip(found, expected)):
        assert (i,event)==(j,wanted), f'call {k}: {i}.{event}, expected {j}.{wanted}'
        wrong = {key: facts[key] for key,v in known.items() if v is not None and facts[key]!=v}
        assert not wrong, f'call {k}, {i}.{event}: {wrong}, expected {known}'
    names = [[c[:2] for c in trace] for trace in (found, expected)]
    assert names[0]==names[1], f'{len(found)} calls, expected {len(expected)}'

def compare_raised(found, out, raised):
    if not out: assert found is None, repr(found)
    elif isinstance(out.source, type): assert type(found) is out.source, repr(found) # one that we did not make
    elif out.kind in CANCELS:
        assert type(found) is RuntimeError, repr(found)
        assert (found.__cause__ or found.__context__) is raised[out.source]
    else: assert found is raised[out.source], f'{found!r}, expected {raised[out.source]!r}'
    if out and out.kind not in CANCELS:
        place,*notes = found.__notes__
        assert place.startswith('in '), place
        assert len(notes)==out.others, f'{len(notes)} notes, expected {out.others}: {notes}'

# Random cases, and smaller ones of a case that fails

def random_case(rng):
    cbs  = [Cb(rng.choice([0, 0, 1, -1, -30, 5]), random_events(rng)) for _ in range(rng.randint(1, 4))]
    runs = [Run(rng.choice([0, 1, 2, 2, 3, None]), rng.randint(1, 3), rng.randint(0, 2), rng.random()<0.8,
                rng.random()<0.1, rng.random()<0.8) for _ in range(rng.choice([1, 1, 2]))]
    for _ in range(rng.choice([0, 1, 1, 2, 3])):
        event,n = rng.choice(EVENTS),rng.choice([0, 0, 1, 2])
        for cb in rng.sample(cbs, rng.choice([1, 1, min(2, len(cbs)), len(cbs)])):
            cb.acts[event,n] = rng.choice(rng.choice([RAISES, RAISES, list(TRUE), ACTIONS]))
        if 'cancel' in event: # something has to come before it
            rng.choice(cbs).acts[rng.choice(IN_BATCH[:5]),rng.choice([0, 1])] = event.removeprefix('after_cancel_')
    if rng.random()<0.3:
        rng.choice(runs).acts[rng.choice([*OUTSIDE][:-1]),rng.choice([0, 0, 1, 2, 3])] = rng.choice(RAISES)
    return Case(cbs, runs)

def random_events(rng): return tuple(EVENTS) if rng.random()<0.6 else tuple(e for e in EVENTS if rng.random()<0.5)

def smaller(case):
    "Yield cases with one thing less."
    for name in 'cbs', 'runs':
        items = getattr(case, name)
        for i,item in enumerate(items):
            if len(items)>1 or name=='cbs': yield replace(case, **{name: items[:i] + items[i+1:]})
            for part in smaller_parts(item): yield replace(case, **{name: [*items[:i], part, *items[i+1:]]})

def smaller_parts(x):
    for key in x.acts: yield replace(x, acts={k: v for k,v in x.acts.items() if k!=key})
    if isinstance(x, Cb):
        if x.order: yield replace(x, order=0)
        for e in x.events: yield replace(x, events=tuple(o for o in x.events if o!=e))
    else:
        for k,least in dict(epochs=0, train=1, valid=0).items():
            if (v := getattr(x, k)) is not None and v>least: yield replace(x, **{k: v-1})
        for k,v in dict(sized=True, linear=False, grad=True).items():
            if getattr(x, k)!=v: yield replace(x, **{k: v})

def fails(case):
    try: check(case)
    except Exception as e: return e

def shrink(case):
    while small := next(filter(fails, smaller(case)), None): case = small
    return case

def test_random_fits():
    for seed in range(SEED, SEED+CASES):
        case = random_case(random.Random(seed))
        if fails(case):
            case = shrink(case)
            raise AssertionError(f'{fails(case)}\nseed {seed}: check({case})') from fails(case)
    if 'FUZZ' in os.environ: print_seen()
    for out in OUTS: assert seen[out]>CASES/50, seen
    wanted  = {(event, action) for event in EVENTS for action in (ACTIONS if CASES>5000 else RAISES)}
    missing = wanted - set(seen)
    assert len(missing)<(1 if CASES>5000 else 10), missing

OUTS = 'nothing', 'error', 'interrupt', 'RuntimeError'

def print_seen():
    print(f'\n{seen["fits"]:,} fits and {seen["validations"]:,} validations; what came out:',
          ', '.join(f'{out} {seen[out]:,}' for out in (*OUTS, 'an error with notes')))
    print('How often a callback (or loader, model and so on) returned, raised or did each thing:')
    columns = {a: [a] for a in (*TRUE, *RAISES, *MADE)} | {'other values': list(OTHER), 'pushes': PUSHES}
    print(' '*18, *(f'{name:>{max(9, len(name))}}' for name in columns))
    for place in (*EVENTS, *OUTSIDE):
        counts = [sum(seen[place,a] for a in actions) for actions in columns.values()]
        if any(counts): print(f'{place:18}', *(f'{n:{max(9, len(name))},}' for name,n in zip(columns, counts)))

# Cases that were found, and mended

def test_counts_skipped():
    "A fit that ends at once has counted nothing, whatever the fit before has."
    check(Case([Cb(-30, (), {('begin_fit', 1): 'True'})], [Run(), Run()]))

def test_validate_skipped():
    check(Case([Cb(0, (), {('begin_fit', 0): 'True'})], [Run(None, valid=1)]))

def test_notes_of_notes():
    "Ctrl-C behind two errors has both as notes."
    cbs = [Cb(0, (), {('after_fit', 0): kind}) for kind in ('error', 'error', 'interrupt')]
    check(Case(cbs))

def test_gradients_of_cancelled_epoch():
    "Gradients of a batch that is left with its epoch don't reach the next."
    check(Case([Cb(0, ('begin_batch',), {('after_backward', 0): 'epoch'})], [Run(epochs=2)]))

def test_no_epochs_need_no_optimiser():
    learn = make_learner(World(Case()), Run())
    learn.opt = None
    Runner().fit(0, learn)
