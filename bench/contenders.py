"""The contenders: each a function that trains `work` for one epoch, as its own documentation shows it. Each library is
here three times: bare, with statistics, and with the fastest settings that its documentation names (`_fast`).

It gets a fresh model, and returns the loader that it used. What it builds before the first batch, and what it does
after the last, isn't timed: the stopwatch is in the loader. Only our own statistics, and those by hand, have to be read
before it stops. Imports are inside, so a process has only its own."""
import math, os, time

import torch, torch.nn.functional as F

from loops import by_hand, by_hand_stats

def accuracy(pred, yb): return (pred.argmax(1)==yb).float().mean()

def hand(work, model):
    batches = work.batches()
    by_hand(work, model, work.opt(model), batches)
    return batches

def hand_stats(work, model):
    batches = work.batches()
    by_hand_stats(work, model, work.opt(model), batches)
    batches.stop()
    return batches

def hand_momentum(work, model):
    batches = work.batches()
    by_hand(work, model, work.opt(model, 0.9), batches)
    return batches

def hand_cycle(work, model):
    "One cycle of learning rate and momentum, written out."
    batches,opt = work.batches(),work.opt(model, 0.9)
    def cos(a, b, p): return a + (1-math.cos(math.pi*p))/2*(b-a)
    def cycle(start, high, end, p): return cos(start, high, p/0.3) if p<0.3 else cos(high, end, (p-0.3)/0.7)
    def scheduled():
        for i,batch in enumerate(batches):
            pos = i/len(batches)
            opt.param_groups[0].update(lr=cycle(0.1, 0.4, 0.01, pos), momentum=cycle(0.95, 0.85, 0.95, pos))
            yield batch
    by_hand(work, model, opt, scheduled())
    return batches

def timed_loader(dl):
    "A PyTorch loader with the stopwatch around it."
    from loops import Batches
    class Timed(Batches):
        def __init__(self): self.seconds = 0.
        def __len__(self): return len(dl)
        def __iter__(self):
            self.start = time.perf_counter()
            yield from dl
            self.stop()
    return Timed()

def torch_loader(work, model, dataset):
    from torch.utils.data import DataLoader
    batches = timed_loader(DataLoader(dataset, work.bs, sampler=work.batches().order.tolist()))
    by_hand(work, model, work.opt(model), batches)
    return batches

def dataloader_collate(work, model):
    from torch.utils.data import TensorDataset
    return torch_loader(work, model, TensorDataset(work.x, work.y))

def dataloader_getitems(work, model):
    "PyTorch's loader over our dataset, which makes a batch by one index, so there's nothing to collate."
    from torch.utils.data import BatchSampler, DataLoader
    from lesson9.minibatch import Dataset
    ds,order = Dataset(work.x, work.y),work.batches().order.tolist()
    batches = timed_loader(DataLoader(ds, batch_size=None, sampler=BatchSampler(order, work.bs, False)))
    by_hand(work, model, work.opt(model), batches)
    return batches

# lesson9
def _runner(work, model, cbs, momentum=0):
    from lesson9.callbacks import DataBunch, Learner, Runner
    batches = work.batches()
    Runner(cbs).fit(1, Learner(model, work.opt(model, momentum), F.cross_entropy, DataBunch(batches)))
    if cbs: batches.stop() # the epoch's statistics have been computed
    return batches

def lesson9(work, model): return _runner(work, model, [])

def lesson9_stats(work, model):
    from lesson9.averages import AvgStatsCallback
    from lesson9.minibatch import accuracy
    return _runner(work, model, [AvgStatsCallback(accuracy, log=None)])

def lesson9_full(work, model):
    "Statistics, one cycle of learning rate and momentum, a recorder and a progress bar."
    from tqdm import tqdm
    from lesson9.anneal import ParamScheduler, Recorder, combine_scheds, cos_1cycle_anneal
    from lesson9.averages import AvgStatsCallback
    from lesson9.callbacks import Callback
    from lesson9.minibatch import accuracy
    interval = 0.1*getattr(work, 'taking_turns', 1) # of the bar, whose clock goes on while other loops have their turns
    class Progress(Callback):
        def begin_epoch(self):
            self.bar = tqdm(total=len(self.data.train_dl), file=open(os.devnull, 'w'), mininterval=interval)
        def after_batch(self): self.bar.update()
        def after_epoch(self): self.bar.close()
    def cycle(*points): return combine_scheds([0.3, 0.7], cos_1cycle_anneal(*points))
    scheds = [ParamScheduler('lr', cycle(0.1, 0.4, 0.01)), ParamScheduler('momentum', cycle(0.95, 0.85, 0.95))]
    stats = AvgStatsCallback(accuracy, log=None)
    return _runner(work, model, [stats, Recorder('momentum'), Progress(), *scheds], 0.9)

# the peers
def _fastai(work, model, **kwargs):
    import fastai.callback.progress # noqa: F401 - it gives the learner no_bar
    from fastai.basics import DataLoaders, Learner, SGD
    batches = work.batches()
    dls = DataLoaders(batches, [next(iter(work.batches()))])
    learn = Learner(dls, model, loss_func=F.cross_entropy, opt_func=SGD, lr=work.lr, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return batches

def fastai(work, model): return _fastai(work, model)
def fastai_fast(work, model):
    "default_cbs=False leaves out the callbacks that record, cast and draw; without TrainEvalCallback it can't train."
    from fastai.basics import TrainEvalCallback
    return _fastai(work, model, default_cbs=False, cbs=TrainEvalCallback)
def fastai_stats(work, model):
    from fastai.basics import Recorder, accuracy
    return _fastai(work, model, metrics=accuracy, cbs=Recorder(train_metrics=True))

def _lightning(work, model, stats):
    import logging
    import lightning as L
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    class Lit(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model
        def training_step(self, batch, batch_idx):
            xb,yb = batch
            pred = self.model(xb)
            loss = F.cross_entropy(pred, yb)
            values = {'loss': loss, 'accuracy': accuracy(pred, yb)} if stats else {}
            if stats: self.log_dict(values, on_step=False, on_epoch=True, batch_size=len(xb))
            return loss
        def configure_optimizers(self): return work.opt(self.model)
    batches = work.batches()
    L.Trainer(max_epochs=1, accelerator='cpu', logger=False, enable_checkpointing=False, enable_progress_bar=False,
              enable_model_summary=False).fit(Lit(), batches)
    return batches

def lightning_fast(work, model):
    """Its Trainer's documentation says that barebones=True disables all features that may impact raw speed. Manual
    optimisation, with the optimiser itself (use_pl_optimizer=False), is documented as well, and faster still."""
    import logging
    import lightning as L
    logging.getLogger('lightning.pytorch').setLevel(logging.ERROR)
    class Lit(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.model,self.automatic_optimization = model,False
        def training_step(self, batch, batch_idx):
            xb,yb = batch
            opt = self.optimizers(use_pl_optimizer=False)
            self.manual_backward(F.cross_entropy(self.model(xb), yb))
            opt.step()
            opt.zero_grad()
        def configure_optimizers(self): return work.opt(self.model)
    batches = work.batches()
    L.Trainer(max_epochs=1, accelerator='cpu', barebones=True).fit(Lit(), batches)
    return batches

def lightning(work, model): return _lightning(work, model, False)
def lightning_stats(work, model): return _lightning(work, model, True)

def _ignite(work, model, stats):
    from ignite.engine import create_supervised_trainer
    from ignite.metrics import Accuracy, Loss
    def output(x, y, y_pred, loss): return (y_pred, y) if stats else loss
    trainer = create_supervised_trainer(model, work.opt(model), F.cross_entropy, output_transform=output)
    if stats:
        Accuracy().attach(trainer, 'accuracy')
        Loss(F.cross_entropy).attach(trainer, 'loss')
    batches = work.batches()
    trainer.run(batches, max_epochs=1)
    return batches

def ignite_fast(work, model):
    "An Engine with a function of our own, as Engine's documentation shows it. It calls train() once, not each step."
    from ignite.engine import Engine
    opt,batches = work.opt(model),work.batches()
    def step(engine, batch):
        xb,yb = batch
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()
        return loss
    model.train()
    Engine(step).run(batches, max_epochs=1)
    return batches

def ignite(work, model): return _ignite(work, model, False)
def ignite_stats(work, model): return _ignite(work, model, True)

def _skorch(work, model, callbacks, **kwargs):
    from skorch import NeuralNetClassifier
    batches = work.batches()
    net = NeuralNetClassifier(
        model, criterion=torch.nn.CrossEntropyLoss, optimizer=torch.optim.SGD, lr=work.lr, max_epochs=1,
        iterator_train=lambda dataset, **kwargs: batches, train_split=None, verbose=0, callbacks=callbacks, **kwargs)
    net.fit(work.x, work.y)
    return batches

def skorch(work, model): return _skorch(work, model, 'disable')
def skorch_fast(work, model):
    """Its page about performance names verbose=0 and callbacks='disable', which the bare one has, too, and data that's
    prepared, which the loader gives here. device=None is documented to leave all where it is."""
    return _skorch(work, model, 'disable', device=None)
def skorch_stats(work, model):
    "Its history always has the loss. The accuracy is scored on the predictions made while training."
    from skorch.callbacks import EpochScoring
    scoring = EpochScoring('accuracy', on_train=True, use_caching=True, name='train_acc')
    return _skorch(work, model, [('accuracy', scoring)])

def _accelerate(work, model, stats):
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    batches = work.batches()
    model,opt = accelerator.prepare(model, work.opt(model))
    model.train()
    n = 0
    loss_sum,acc_sum = torch.zeros(()),torch.zeros(())
    for xb,yb in batches:
        pred = model(xb)
        loss = F.cross_entropy(pred, yb)
        if stats:
            with torch.no_grad():
                n += len(xb)
                loss_sum += loss*len(xb)
                acc_sum += accuracy(pred, yb)*len(xb)
        accelerator.backward(loss)
        opt.step()
        opt.zero_grad()
    return batches

def accelerate_fast(work, model):
    """It documents no settings for speed. But an optimiser is prepared for mixed precision, several processes and
    accumulated gradients, and there's none of that here: so only the model is."""
    from accelerate import Accelerator
    accelerator = Accelerator(cpu=True)
    batches,opt = work.batches(),work.opt(model)
    model = accelerator.prepare(model)
    model.train()
    for xb,yb in batches:
        loss = F.cross_entropy(model(xb), yb)
        accelerator.backward(loss)
        opt.step()
        opt.zero_grad()
    return batches

def accelerate(work, model): return _accelerate(work, model, False)
def accelerate_stats(work, model): return _accelerate(work, model, True)

ours    = 'hand hand_stats dataloader_collate dataloader_getitems lesson9 lesson9_stats lesson9_full'.split()
peers   = ['fastai', 'lightning', 'ignite', 'skorch', 'accelerate']
against = {'lesson9_full': 'hand_momentum'} # what a contender is timed against, if not `hand`
same_as = {'lesson9_full': 'hand_cycle'}    # whose final weights it has to reach, if not those of `hand`
