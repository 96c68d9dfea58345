"""Ctrl-C at any moment of a fit: it's raised, the world outside is as before, and the next fit works.

1,000 moments, one at random in each 1,000th of a fit: no part of it is left out; INTERRUPTS=10000 tries more."""
import os, random, signal, statistics, sys, time, warnings

import torch
import torch.nn.functional as F
from torch import nn, optim

from lesson9.all import (AvgStatsCallback, Callback, DataBunch, Dataset, DeviceCallback, get_dls, GradientClip,
                         HooksCallback, Learner, MixedPrecision, ParamScheduler, Recorder, Runner, sched_lin, Seed)

N = int(os.environ.get('INTERRUPTS', '1000'))
rung = [] # something, once the alarm of this moment has been heard

class Listens(Callback):
    "Enter something at each fit's start, and note how it was left."
    def __init__(self): self.entered = self.left = 0
    def leave(self): self.left += 1
    def begin_fit(self):
        self.run.stack.callback(self.leave)
        self.entered += 1

def tiny():
    torch.manual_seed(0)
    x,y = torch.randn(12, 8),torch.randint(3, (12,))
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))
    data = DataBunch(*get_dls(Dataset(x[:8], y[:8]), Dataset(x[8:], y[8:]), 8), c=3)
    return Learner(model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9), F.cross_entropy, data)

def outside(learn):
    "What a fit must leave as it was, whatever happens."
    return dict(grad=torch.is_grad_enabled(), autocast=torch.is_autocast_enabled('cpu'),
                deterministic=torch.are_deterministic_algorithms_enabled(), handler=signal.getsignal(signal.SIGINT),
                hooks=[len(m._forward_hooks)+len(m._backward_hooks) for m in learn.model.modules()], opt=learn.opt)

def callbacks():
    return [Listens(), AvgStatsCallback(log=None), Recorder(), ParamScheduler('lr', sched_lin(0.1, 0.)),
            DeviceCallback('cpu'), MixedPrecision(torch.bfloat16), GradientClip(norm=1.),
            HooksCallback(lambda hook, layer, inp, out: None), Seed(1)]

def seconds(run):
    learn,start = tiny(),time.perf_counter()
    run.fit(1, learn)
    return time.perf_counter()-start

def interrupted_fit(run, learn, seconds):
    "Fit, and press Ctrl-C after so many seconds; return whether that was in time."
    rung.clear()
    ended = False
    try:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        run.fit(1, learn)
        ended = True
        while not rung: time.sleep(0.001) # over before it came; the timer has ended a little before that is heard
        time.sleep(0.001)
    except KeyboardInterrupt: return not ended
    finally: signal.setitimer(signal.ITIMER_REAL, 0)
    raise AssertionError('no Ctrl-C')

def test_ctrl_c_at_any_moment():
    "A moment in each part of a fit, followed by a fit that works and gives the same weights as ever."
    def ring(*_):
        rung.append(True)
        signal.raise_signal(signal.SIGINT)
    old = signal.signal(signal.SIGALRM, ring)
    rng,moments,cbs = random.Random(0),0,callbacks()
    run = Runner(cbs)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            length = statistics.median(seconds(run) for _ in range(40)) # the first ones take longer
            expected = tiny()
            Runner(callbacks()).fit(1, expected)
            for i in range(N):
                cbs[0].entered = cbs[0].left = 0
                learn = tiny()
                before = outside(learn)
                moments += interrupted_fit(run, learn, max((i+rng.random())*length/N, 1e-5))
                assert outside(learn)==before, i
                assert cbs[0].entered<=cbs[0].left<=1 and run.learn is None, i
                cbs[0].entered = cbs[0].left = 0
                learn = tiny()
                run.fit(1, learn)
                assert (cbs[0].entered, cbs[0].left)==(1, 1), i
                for p,q in zip(learn.model.parameters(), expected.model.parameters()): assert torch.equal(p, q), i
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    print(f'{moments} of {N} fits were interrupted')
    assert moments>N/2

class Losses(Callback):
    "Read each loss at once, before the recorder."
    order = Recorder.order - 1
    def after_batch(self): self.values = [*getattr(self, 'values', ()), self.loss.item()]

def fit_interrupted_at(k):
    "Press Ctrl-C in the `k`th line of Recorder's methods from the 63rd batch on; return whether there was one."
    recorder,losses = Recorder(), Losses()
    run,left = Runner([recorder, losses]), k
    codes = {getattr(Recorder, name).__code__ for name in ('after_batch', 'after_epoch')}
    def line(frame, event, arg):
        nonlocal left
        left -= event=='line'
        if left==0: raise KeyboardInterrupt
        return line
    learn = tiny()
    learn.data = DataBunch([next(iter(learn.data.train_dl))]*66)
    sys.settrace(lambda frame, event, arg: line if frame.f_code in codes and run.n_iter>=62 else None)
    try: run.fit(1, learn)
    except KeyboardInterrupt: pass
    finally: sys.settrace(None)
    assert recorder.losses==losses.values[:len(recorder.losses)], k
    assert len(losses.values)-len(recorder.losses)<=1, k
    assert recorder.waiting==[], k
    return left<=0

def test_ctrl_c_at_any_line_of_the_recorder():
    "No loss is there twice, and none is missing but that of the batch itself."
    k = 1
    while fit_interrupted_at(k): k += 1
    assert k>8
