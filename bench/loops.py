"What every contender trains, on which data, and the hand-written loops that it's measured against."
import time
from dataclasses import dataclass
from typing import Callable

import torch, torch.nn.functional as F
from torch import nn, optim

from lesson9.data import get_data


class Batches:
    "The loader of all contenders but two: batches by one index, in a given order. It has the stopwatch."
    def __init__(self, x, y, order, bs):
        self.x,self.y = x,y
        self.order,self.bs = order,bs
        self.seconds = 0.

    def __len__(self): return (len(self.order)+self.bs-1)//self.bs
    def __iter__(self):
        self.start = time.perf_counter()
        try:
            for i in range(0, len(self.order), self.bs):
                idx = self.order[i:i+self.bs]
                yield self.x[idx],self.y[idx]
        finally: self.stop() # here the last step is done

    def stop(self): self.seconds = time.perf_counter()-self.start

@dataclass
class Work:
    "A model and its data. Every turn starts from the same weights, and gets the same batches in the same order."
    name: str
    model_func: Callable
    x: torch.Tensor
    y: torch.Tensor
    bs: int
    lr: float = 0.1
    def batches(self):
        order = torch.randperm(len(self.x), generator=torch.Generator().manual_seed(1))
        return Batches(self.x, self.y, order, self.bs)
    def model(self):
        torch.manual_seed(0)
        return self.model_func()
    def opt(self, model, momentum=0): return optim.SGD(model.parameters(), lr=self.lr, momentum=momentum)

def mlp(n_in): return lambda: nn.Sequential(nn.Linear(n_in, 50), nn.ReLU(), nn.Linear(50, 10))

def convnet():
    def layer(ni, nf, ks=3): return nn.Sequential(nn.Conv2d(ni, nf, ks, padding=ks//2, stride=2), nn.ReLU())
    return nn.Sequential(nn.Unflatten(1, (1,28,28)), layer(1,8,5), layer(8,16), layer(16,32), layer(32,32),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32,10))

def get_work(name, n=50_000):
    "The workload called `name`, with the first `n` images: mlp<pixels>-bs<batch size> or convnet-bs<batch size>."
    kind,bs = name.split('-bs')
    x,y,*_ = get_data()
    if n<len(x): x,y = x[:n].clone(),y[:n].clone() # a slice would keep all images in memory
    if kind=='convnet': return Work(name, convnet, x, y, int(bs), lr=0.4)
    n_in = int(kind.removeprefix('mlp'))
    if n_in!=x.shape[1]: x = x[:, torch.linspace(0, x.shape[1]-1, n_in).long()].contiguous()
    return Work(name, mlp(n_in), x, y, int(bs))

def by_hand(work, model, opt, batches):
    "The usual training loop."
    model.train()
    for xb,yb in batches:
        loss = F.cross_entropy(model(xb), yb)
        loss.backward()
        opt.step()
        opt.zero_grad()

def by_hand_stats(work, model, opt, batches):
    "The same, with the mean loss and accuracy of the epoch, which it returns."
    model.train()
    n = 0
    loss_sum,acc_sum = torch.zeros(()),torch.zeros(())
    for xb,yb in batches:
        pred = model(xb)
        loss = F.cross_entropy(pred, yb)
        with torch.no_grad():
            n += len(xb)
            loss_sum += loss*len(xb)
            acc_sum += (pred.argmax(1)==yb).float().mean()*len(xb)
        loss.backward()
        opt.step()
        opt.zero_grad()
    return float(loss_sum/n),float(acc_sum/n)
