"`ProgressCallback` outside a notebook: in a pipe and in a terminal. What a notebook shows and keeps is in test_lab.py."
import fcntl, os, pty, struct, subprocess, sys, termios

import pytest

# Importing PyTorch takes longest, so one process does both fits: one into a pipe, and then one on the terminal `tty`.
# Each is followed by two passes that are no epochs, and add nothing to the table.
FITS = '''
import os, sys, time, torch, torch.nn.functional as F
from lesson9.all import *
class Slow(Callback):
    def after_loss(self): time.sleep(0.15)
ds = Dataset(torch.randn(64, 4), torch.arange(64)%3)
model = torch.nn.Linear(4, 3)
learn = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), F.cross_entropy, DataBunch(*get_dls(ds, ds, 16)))
tty = int(sys.argv[1])
for is_terminal in False,True:
    if is_terminal:
        for output in sys.stdout,sys.stderr: output.flush(), os.dup2(tty, output.fileno())
        os.close(tty)
    run = Runner([ProgressCallback(accuracy, plot=True), Slow()])
    run.fit(2, learn)
    run.validate(learn)
    run.get_preds(learn)
'''

@pytest.fixture(scope='module')
def sent():
    "What one fit sends to a pipe's stdout and stderr, and one to a terminal."
    ours,theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 100, 0, 0)) # lines and columns: a new one has none
    command = [sys.executable, '-c', FITS, str(theirs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[theirs])
    os.close(theirs)
    out,err = process.stdout.read().decode(),process.stderr.read().decode() # until the process leaves the pipes
    terminal = read_all(ours)
    assert process.wait(timeout=120)==0, out+err+terminal
    return out,err,terminal

def read_all(fd):
    "What a terminal was sent, until the process on it ended."
    parts = []
    while True:
        try: part = os.read(fd, 10_000)
        except OSError: break # Linux: the other side is closed
        if not part: break
        parts.append(part)
    return b''.join(parts).decode()

def screen(sent):
    "Lines as a terminal shows them: what follows a carriage return overwrites."
    lines = []
    for line in sent.replace('\r\n', '\n').split('\n'):
        shown = ''
        for part in line.split('\r'): shown = part + shown[len(part):]
        lines.append(shown.rstrip())
    return '\n'.join(lines).strip('\n')

def is_table(text):
    head,*rows = [line.split() for line in text.splitlines()]
    columns = ['epoch', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_accuracy', 'seconds']
    return head==columns and [row[0] for row in rows]==['0', '1'] and {len(row) for row in rows}=={6}

def test_pipe_gets_the_table_and_nothing_else(sent):
    out,err,_ = sent
    assert err=='' and is_table(out), out+err

def test_terminal_shows_bars_and_keeps_the_table(sent):
    _,_,terminal = sent
    for bar in 'epoch 1 of 2', 'epoch 2 of 2', 'validating', '/4 [', 'loss ': assert bar in terminal, terminal
    assert '\rvalidating' in terminal and 'of 0' not in terminal, terminal # a pass after the fit is part of no epoch
    assert is_table(screen(terminal)), screen(terminal)
