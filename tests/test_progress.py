"`ProgressCallback` where a notebook cannot look: in a terminal, in a pipe, and in what a real kernel saves."
import fcntl, os, pty, struct, subprocess, sys, termios
import nbformat, pytest
from nbclient import NotebookClient

FIT = '''
import time, torch, torch.nn.functional as F
from lesson9.all import *
class Slow(Callback):
    def after_loss(self): time.sleep(0.15)
ds = Dataset(torch.randn(64, 4), torch.arange(64)%3)
model = torch.nn.Linear(4, 3)
learn = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), F.cross_entropy, DataBunch(*get_dls(ds, ds, 8)))
run = Runner([ProgressCallback(accuracy, plot={plot}), Slow()])
run.fit(2, learn)
'''

INTERRUPTED = '''
class Interrupt(Callback):
    order = 100
    def after_batch(self):
        if self.n_iter==12: raise KeyboardInterrupt()
try: Runner([ProgressCallback(), Slow(), Interrupt()]).fit(2, learn)
except KeyboardInterrupt: pass
'''

def in_process(stdout, stderr):
    return subprocess.Popen([sys.executable, '-c', FIT.format(plot=True)], stdout=stdout, stderr=stderr)

def is_table(text):
    head,*rows = [line.split() for line in text.splitlines()]
    return head==['epoch', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_accuracy', 'seconds'] and [row[0] for row in rows]==['0', '1'] and {len(row) for row in rows}=={6}

def test_pipe_gets_the_table_and_nothing_else():
    process = in_process(subprocess.PIPE, subprocess.PIPE)
    out,err = process.communicate(timeout=120)
    assert process.returncode==0 and err==b'', err.decode()
    assert is_table(out.decode()), out.decode()

def read_all(fd):
    "What a terminal was sent, until the process on it ended."
    parts = []
    while True:
        try: part = os.read(fd, 10_000)
        except OSError: break # Linux: nobody is on the other side any more
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

def test_terminal_shows_bars_and_keeps_the_table():
    ours,theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 100, 0, 0)) # lines and columns: a new one has none
    process = in_process(theirs, theirs)
    os.close(theirs)
    sent = read_all(ours)
    assert process.wait(timeout=120)==0, sent
    for bar in 'epoch 1 of 2', 'epoch 2 of 2', 'validating', '/8 [', 'loss ': assert bar in sent, sent
    assert is_table(screen(sent)), screen(sent)

@pytest.fixture(scope='module')
def outputs():
    "What a kernel saves for one fit without a plot, one with a plot, and one that was interrupted."
    sources = FIT.format(plot=False),FIT.format(plot=True),INTERRUPTED
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(nb, timeout=120, kernel_name='python3').execute()
    return [cell.outputs for cell in nb.cells]

def test_notebook_keeps_only_the_table(outputs):
    output, = outputs[0]
    assert output.output_type=='display_data', output
    html = output.data['text/html']
    assert html.count('<tr>')==3 and html.endswith('</table>') and 'epoch 2' not in html, html

def test_notebook_keeps_the_plot_that_was_asked_for(outputs):
    output, = outputs[1]
    html = output.data['text/html']
    assert html.count('<img')==1 and html.count('<tr>')==3 and '<pre>' not in html, html[:500]

def test_interrupted_fit_leaves_no_bar(outputs):
    output, = outputs[2]
    assert output.data['text/html'].count('<tr>')==2 and '<pre>' not in output.data['text/html'], output # the head, and one epoch
