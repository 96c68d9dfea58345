"""Two processes on the GPUs of this machine, or on its one GPU: the weights are those of one process, each process has
its own random numbers, and a run that was stopped goes on bit for bit. DEVICE=cpu tries it on the processor."""
import hashlib, os, subprocess, sys
from pathlib import Path

import pytest, torch, torch.nn.functional as F
from torch import nn, optim

from lesson9.all import *
from lesson9.shard import whole

GPU = torch.cuda.is_available()
pytestmark = pytest.mark.skipif(not GPU and os.environ.get('DEVICE')!='cpu', reason='no GPU, and DEVICE isn\'t cpu')

class Stops(Callback):
    order = Checkpoint.order + 1
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.in_train and self.n_iter==self.n: raise ZeroDivisionError

def train(dropout, *cbs, shard=False, alone=False):
    "The weights after three epochs of six batches, the last of nine samples, and the losses."
    rng = torch.Generator().manual_seed(0)
    x,y = torch.randn(89, 16, generator=rng, dtype=torch.float64),torch.arange(89)%10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Dropout(dropout), nn.Linear(32, 10)).double()
    data  = DataBunch(*get_dls(Dataset(x, y), Dataset(x, y), 16), c=10)
    learn = Learner(model, optim.AdamW(model.parameters(), 0.01), F.cross_entropy, data)
    more  = [] if alone else [Distributed(shard=shard, timeout=60)]
    run   = Runner([AvgStatsCallback(accuracy, log=None), Recorder(), DeviceCallback(), *more, *cbs])
    run.fit(3, learn)
    return [p.detach().cpu() for p in whole(list(model.parameters()))],run.recorder.losses

def digest(found): return hashlib.sha256(repr([[p.tolist() for p in found[0]], found[1]]).encode()).hexdigest()

def in_process(what, folder):
    "What each of the processes does."
    if what=='equal':
        both,one = train(0.),train(0., alone=True)
        print('largest difference', max(float((a-b).abs().max()) for a,b in zip(both[0], one[0])), flush=True)
        if not GPU or torch.cuda.device_count()>1: # NCCL and FSDP2 need a GPU for each process
            sharded = train(0., shard=True)
            print('sharded', max(float((a-b).abs().max()) for a,b in zip(both[0], sharded[0])), flush=True)
    cbs = [Stops(10)] if what=='stop' else []
    if what!='equal': print(digest(train(0.3, Checkpoint(Path(folder)/'run', seconds=None, every=1, log=None), *cbs)))

def start(what, folder):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2',
               '--local-ranks-filter=0', __file__, what, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)

def test_two_processes_equal_one(tmp_path):
    found = start('equal', tmp_path)
    assert not found.returncode, found.stderr[-3000:]
    differences = [float(line.split()[-1]) for line in found.stdout.splitlines()]
    assert differences and max(differences)<1e-10, found.stdout

def test_goes_on_bit_for_bit(tmp_path):
    whole_run = start('run', tmp_path/'whole')
    assert 'ZeroDivisionError' in start('stop', tmp_path/'stopped').stderr
    assert whole_run.stdout and start('run', tmp_path/'stopped').stdout==whole_run.stdout, whole_run.stderr[-3000:]

if __name__=='__main__': in_process(*sys.argv[1:])
