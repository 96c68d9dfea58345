"""Odd names, links, pipes, bombs, closed folders and full disks, for all that reads or writes a file.

A reader gives what is there or a documented error, soon and in little memory. A writer writes all or nothing: after an
error the file of before is intact, and nothing is left beside it."""
import errno, gzip, os, resource, signal, socket, stat, struct, tempfile, unicodedata, warnings
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from torch import nn, optim

from lesson9.all import *
from lesson9.files import check_writable, load_tensors, save_tensors
from lesson9.weights import read_model

def make_learner(outputs=2):
    torch.manual_seed(0)
    ds    = Dataset(torch.randn(16, 3), torch.arange(16)%2)
    model = nn.Linear(3, outputs)
    return Learner(model, optim.SGD(model.parameters(), lr=0.1), F.cross_entropy, DataBunch(*get_dls(ds, ds, 4)))

make_learner() # PyTorch imports a lot for the first optimiser: here, and not while a test takes the time

def fit(*cbs, epochs=1, learn=None):
    "Train, four batches in an epoch; return the losses."
    run = Runner([AvgStatsCallback(accuracy, log=None), Recorder(), *cbs])
    run.fit(epochs, learn or make_learner())
    return run.recorder.losses

@contextmanager
def within(seconds=10, mebibytes=None):
    "Raise an error in the block when it takes longer, or when it takes more memory than now and that."
    def late(*_): raise AssertionError(f'not done after {seconds} seconds')
    old,limits = signal.signal(signal.SIGALRM, late),resource.getrlimit(resource.RLIMIT_AS)
    signal.alarm(seconds)
    statm = Path('/proc/self/statm') # Linux's
    if mebibytes and statm.exists():
        now = int(statm.read_text().split()[0])*resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (now + mebibytes*2**20, limits[1]))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)

@contextmanager
def full_disk(how):
    "No file can be written: none can have more than 100 bytes, or none reaches the disk."
    def fsync(handle): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE) # Python ignores the signal that comes with it
    with pytest.MonkeyPatch.context() as patch:
        if how=='at fsync': patch.setattr(os, 'fsync', fsync)
        else: resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try: yield
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, limits)

@contextmanager
def no_root():
    "Permissions count, also if root runs the tests."
    root = os.geteuid()==0
    if root: os.seteuid(65534)
    try: yield
    finally:
        if root: os.seteuid(0)

@pytest.fixture
def folder():
    "A folder that others than root can enter, unlike pytest's."
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        yield Path(path).resolve()

def contents(folder): return {p.name: p.read_bytes() if p.is_file() else stat.S_IFMT(p.lstat().st_mode)
                              for p in sorted(folder.iterdir()) if p.name!='.lock'}

# Readers and writers

def train(cb): return fit(cb) and None
def csv_rows(path): return len(CSVLogger(path).rows)

READERS = dict(load_idx=load_idx, load_tensors=load_tensors, read_model=read_model, get_data=get_data,
               load_model=lambda path: load_model(path, make_learner().model))
WRITERS = { # what writes something that it can read again
    'save_tensors': (lambda path: save_tensors(path, {'a': torch.ones(50)}, [1.5]), lambda path: load_tensors(path)[1]),
    'save_model': (lambda path: save_model(path, make_learner().model, n=1), lambda path: READERS['load_model'](path)),
    'SaveBest':   (lambda path: train(SaveBest(path)), lambda path: read_model(path)[0]['metric']),
    'CSVLogger':  (lambda path: train(CSVLogger(path)), csv_rows)}
READ = {'save_tensors': [1.5], 'save_model': {'n': 1}, 'SaveBest': 'valid_loss', 'CSVLogger': 1}

def places(folder):
    "Paths at which there's no file."
    os.mkfifo(folder/'pipe')
    with socket.socket(socket.AF_UNIX) as s: s.bind(str(folder/'socket'))
    (folder/'folder').mkdir()
    (folder/'file').write_bytes(b'x')
    for name,target in dict(to_pipe='pipe', to_folder='folder', nowhere='none/file').items():
        (folder/name).symlink_to(target)
    return [folder, '', '.', *(folder/name for name in ('pipe', 'socket', 'folder', 'to_pipe', 'to_folder', 'nowhere')),
            folder/'file'/'inside', f'{folder}/file\0', folder/'none'/'file']

@pytest.mark.parametrize('name', READERS)
def test_reading_where_there_is_no_file(folder, name):
    "An error at once; a pipe is not waited for."
    (folder/'loop').symlink_to('loop')
    for path in [*places(folder), folder/'none', folder/'loop', folder/('a'*256)]:
        if name=='get_data' and path=='': continue # as no path: MNIST
        with within(5), pytest.raises((OSError, ValueError, CheckpointError)) as caught: READERS[name](path)
        assert str(caught.value)
        if '\0' not in str(path): assert str(path) in str(caught.value).replace('\\n', '\n'), caught.value

@pytest.mark.parametrize('name', WRITERS)
def test_writing_where_no_file_can_be(folder, name):
    "An error before anything is done, and all stays as it was."
    paths  = places(folder)
    before = contents(folder)
    trained = []
    class Trained(Callback):
        def begin_batch(self): trained.append(True)
    write = {'SaveBest':  lambda path: fit(Trained(), SaveBest(path)),
             'CSVLogger': lambda path: fit(Trained(), CSVLogger(path))}.get(name, WRITERS[name][0])
    for path in paths:
        with within(5), pytest.raises((OSError, ValueError)): write(path)
        assert contents(folder)==before and not trained, path
    with pytest.raises(FileExistsError, match='is a pipe or a device: name a file'): check_writable(folder/'to_pipe')

NAMES = [' a b ', 'new\nline', '\t', '"\'', '%s{0}', '-rf', '~', '#?*[0]', '.hidden', 'some.part', '\u65e5\u672c\u8a9e',
         unicodedata.normalize('NFC', '\u00e9'), unicodedata.normalize('NFD', '\u00e9'), '\U0001f642'*63, 'a'*255,
         'a'*254, os.fsdecode(b'caf\xe9')]

@pytest.mark.parametrize('name', WRITERS)
def test_any_name(folder, name):
    "Each is a file of its own, with nothing beside it."
    write,read = WRITERS[name]
    for i,file in enumerate(NAMES):
        write(folder/file)
        assert read(folder/file)==READ[name], file
        assert set(contents(folder))==set(NAMES[:i+1])
    write(f'{folder}/../{folder.name}/./other')
    assert read(folder/'other')==READ[name]

def test_any_name_at_all(folder):
    names = st.text(st.characters(exclude_characters='/\0'), min_size=1, max_size=255)
    @settings(max_examples=15, derandomize=True, deadline=None, database=None)
    @given(names.filter(lambda name: name not in ('.', '..') and len(os.fsencode(name))<=255))
    def check(name):
        save_tensors(folder/name, {}, name)
        assert load_tensors(folder/name)==({}, name) and list(contents(folder))==[name]
        (folder/name).unlink()
    check()

@pytest.mark.filterwarnings('ignore:.*of an earlier fit') # SaveBest's
@pytest.mark.parametrize('name', WRITERS)
def test_links(folder, name):
    "What a link leads to is replaced in one step, and the link stays. Where it leads nowhere, a file is made."
    write,read = WRITERS[name]
    (folder/'real').mkdir()
    (folder/'way').symlink_to('real')
    for link,target in dict(first='second', second='way/file').items(): (folder/link).symlink_to(target)
    write(folder/'first')
    assert read(folder/'real'/'file')==READ[name] and (folder/'first').is_symlink() and (folder/'second').is_symlink()
    with open(folder/'first', 'rb') as before:
        whole = (folder/'first').read_bytes()
        write(folder/'first')
        assert before.read()==whole # who reads it meanwhile reads the old one
    assert [p.name for p in (folder/'real').iterdir()]==['file']
    (folder/'loop').symlink_to('loop')
    write(folder/'loop') # which leads nowhere, either
    assert read(folder/'loop')==READ[name]

# Bombs, and files that are longer than all memory

def idx_header(*shape): return bytes([0, 0, 8, len(shape)]) + struct.pack(f'>{len(shape)}I', *shape)

@pytest.mark.parametrize('shape, found', [((3,), 'more'), ((2**32-1, 2**32-1), 'at most')])
def test_bombs(folder, shape, found):
    "A gzip file of 8 MB that unpacks to 8 GiB, and a file of 8 GiB of holes, of which the header says something else."
    one = gzip.compress(bytes(2**23))
    (folder/'bomb').write_bytes(gzip.compress(idx_header(*shape)) + one*1024)
    (folder/'holes').write_bytes(idx_header(*shape))
    os.truncate(folder/'holes', 2**33)
    for name in 'bomb','holes':
        with within(5, 100), pytest.raises(ValueError, match=f'bytes after the header, found {found}'):
            load_idx(folder/name)

def test_longer_than_memory(folder):
    "Files of 8 GiB, with and without the beginning of a good one."
    save_tensors(folder/'longer', {'a': torch.ones(3)}, None)
    (folder/'longer.csv').write_text('some,columns')
    for name in 'longer','longer.csv','empty':
        (folder/name).touch()
        os.truncate(folder/name, 2**33)
    for name in 'longer','empty':
        with within(5, 100), pytest.raises(CheckpointError, match='is damaged'): load_tensors(folder/name)
    for name in 'longer','longer.csv','empty':
        with within(5, 100), pytest.raises(ValueError, match='was not written by a CSVLogger'): CSVLogger(folder/name)
        with within(5, 100), pytest.raises(FileExistsError, match='holds something else'): fit(SaveBest(folder/name))

def test_other_files_as_logs(folder):
    "Any file is read as rows or refused, and if it's read, a row can be added."
    path = folder/'log.csv'
    parts = st.sampled_from([b'epoch', b'fit', b',', b'\r\n', b'\n', b'\r', b'"', b'0', b'1', b'\xc2\xb2', b'-', b'\0'])
    @settings(max_examples=100, derandomize=True, deadline=None, database=None)
    @given(st.sampled_from([b'', b'fit,epoch\n', b'epoch\n']), st.lists(parts | st.binary(max_size=9), max_size=8))
    def check(begin, rest):
        path.write_bytes(data := begin + b''.join(rest))
        try: logger = CSVLogger(path)
        except ValueError as e:
            assert f'{str(path)!r} was not written by a CSVLogger' in str(e)
            assert path.read_bytes()==data
            return
        before = logger.rows
        fit(logger)
        after = CSVLogger(path).rows
        assert len(after)==len(before)+1
        for old,new in zip(before, after): assert {k: v or '' for k,v in old.items()}=={k: new[k] for k in old}
    check()

# Closed folders and full disks

def test_closed_files(folder):
    "A file that one may not read, and a folder without a right to write."
    save_tensors(folder/'file', {}, None)
    (folder/'file').chmod(0)
    folder.chmod(0o555)
    with no_root():
        for read in (load_idx, load_tensors, read_model, CSVLogger, lambda path: fit(SaveBest(path))):
            with pytest.raises(PermissionError): read(folder/'file')
        for write in (*(write for write,_ in WRITERS.values()), check_writable):
            with pytest.raises(PermissionError): write(folder/'new')
    assert list(contents(folder))==['file']

@pytest.mark.parametrize('how', ['closed', 'too large', 'at fsync'])
@pytest.mark.parametrize('name', WRITERS)
def test_writing_fails(folder, name, how):
    "The file of before is intact, with nothing beside it, and the same object can write when there's room again."
    path,(write,read) = folder/'file',WRITERS[name]
    if name in ('SaveBest', 'CSVLogger'):
        cb,learn = {'SaveBest': SaveBest, 'CSVLogger': CSVLogger}[name](path),make_learner()
        def write(path): fit(cb, learn=learn)
    write(path)
    before = contents(folder)
    folder.chmod(0o555 if how=='closed' else 0o755)
    with no_root() if how=='closed' else full_disk(how):
        with pytest.raises(OSError) as caught: write(path)
    said = {'closed': 'Permission denied', 'too large': 'File too large', 'at fsync': 'No space left on device'}[how]
    assert said in str(caught.value) and contents(folder)==before
    if name=='SaveBest': assert cb.best==read_model(path)[0]['value'] # what the file still holds
    folder.chmod(0o755)
    write(path)
    rows = {'CSVLogger': 2}.get(name, READ[name])
    assert read(path)==rows and list(contents(folder))==['file']

@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning') # it's raised in the fit, too
@pytest.mark.parametrize('how', ['closed', 'too large'])
def test_tensorboard_fails(folder, how):
    "Its writer is a thread: its error comes here, and soon."
    pytest.importorskip('tensorboard', reason='tensorboard is not installed: its logger was not tried')
    for name in 'file','pipe': (os.mkfifo if name=='pipe' else Path.touch)(folder/name)
    fit(TensorBoardLogger(folder/'first')) # imports it
    for path in folder/'file',folder/'pipe',folder/'file'/'inside':
        with within(5), pytest.raises(OSError): fit(TensorBoardLogger(path))
    folder.chmod(0o555 if how=='closed' else 0o755)
    with within(5), no_root() if how=='closed' else full_disk(how):
        with pytest.raises(OSError): fit(TensorBoardLogger(folder/'new'), epochs=3)

# Checkpoints

class Killed(BaseException): pass
class KillAt(Callback):
    order = Checkpoint.order + 1
    def __init__(self, n): self.n = n
    def after_batch(self):
        if self.in_train and self.n_iter==self.n: raise Killed

def checkpoint(folder, **settings): return Checkpoint(folder, None, every=1, log=None, **settings)

def stopped(folder, n=6):
    "A folder with the two last checkpoints of a run that was killed after `n` batches."
    with pytest.raises(Killed): fit(checkpoint(folder), KillAt(n), epochs=3)
    assert len(contents(folder))==2
    return folder

@pytest.fixture(scope='module')
def never(): return fit(epochs=3)

@pytest.mark.parametrize('how', ['closed', 'too large', 'at fsync'])
@pytest.mark.parametrize('on_error', ['raise', 'warn'])
def test_no_room_for_checkpoints(folder, never, how, on_error):
    "What was there stays, and is gone on from when there's room again; with `warn`, training is as ever."
    before = contents(stopped(folder))
    folder.chmod(0o555 if how=='closed' else 0o755)
    with no_root() if how=='closed' else full_disk(how):
        if on_error=='raise':
            with pytest.raises(OSError): fit(checkpoint(folder), epochs=3)
        else:
            with pytest.warns(UserWarning, match='no checkpoint: .*; training goes on$'):
                assert fit(checkpoint(folder, on_error='warn'), epochs=3)==never
    assert contents(folder)==before
    folder.chmod(0o755)
    assert fit(checkpoint(folder), epochs=3)==never

@pytest.mark.parametrize('on_error', ['raise', 'warn'])
def test_no_folder_for_checkpoints(folder, never, on_error):
    "A file, a pipe or a link to nowhere in its place."
    paths  = [path for path in places(folder)[3:] if not Path(path).is_dir() and '\0' not in str(path)]
    paths  = [path for path in paths if path!=folder/'none'/'file'] # which is made
    before = contents(folder)
    for path in paths:
        learn = make_learner()
        weights = learn.model.weight.clone()
        if on_error=='raise':
            with within(5), pytest.raises(OSError): fit(checkpoint(path), epochs=3, learn=learn)
            assert torch.equal(learn.model.weight, weights) # not a batch was trained
        else:
            with within(5), pytest.warns(UserWarning, match='training goes on'):
                assert fit(checkpoint(path, on_error='warn'), epochs=3)==never
        assert contents(folder)==before

def test_names_of_folders(folder, never):
    "Two folders whose names look the same, and others."
    names = NAMES[1], *NAMES[-6:-3], NAMES[-1]
    for i,name in enumerate(names): stopped(folder/name, 5+i)
    assert set(contents(folder))==set(names)
    for name in names: assert fit(checkpoint(folder/name), epochs=3)==never

def pipe(path): os.mkfifo(path)
def directory(path): (path/'inside').mkdir(parents=True)
def link_to_nowhere(path): path.symlink_to('nowhere')
def loop(path): path.symlink_to(path)
def empty(path): path.touch()
def holes(path):
    path.touch()
    os.truncate(path, 2**33)
def longer(path):
    path.write_bytes(max(path.parent.glob('checkpoint*')).read_bytes())
    os.truncate(path, 2**33)
def newer(data): return data.replace(b'"format":"1"', b'"format":"2"')
def newer_format(path):
    path.write_bytes(newer(max(path.parent.glob('checkpoint*')).read_bytes()))

@pytest.mark.parametrize('make, n', [
    (pipe, 7), (empty, 7), (holes, 7), (longer, 7), (newer_format, 0), (newer_format, 7), (link_to_nowhere, 7),
    (loop, 7), (directory, 7), (directory, 0), (empty, 99_999_999)])
def test_odd_checkpoints(folder, never, make, n):
    "What can't be read is passed over, with a warning, and the run can go on at any time."
    stopped(folder)
    make(path := folder/f'checkpoint_0000_{n:08}.safetensors')
    with warnings.catch_warnings(record=True) as said, within(10, 300):
        warnings.simplefilter('always')
        with pytest.raises(Killed): fit(checkpoint(folder), KillAt(9), epochs=3)
        assert fit(checkpoint(folder), KillAt(9), epochs=3)==never # goes on after the ninth: it isn't reached again
    assert all('is passed over' in str(w.message) for w in said) and (not n or said)
    assert len([p for p in contents(folder) if p!=path.name])==2

def test_all_newer_or_of_another_run(folder):
    "Nothing is changed, neither the files nor the model, and the error says why."
    stopped(folder)
    def refused(learn, error, *cbs):
        files,weights = contents(folder),[p.clone() for p in learn.model.parameters()]
        with warnings.catch_warnings(), pytest.raises(CheckpointError, match=error):
            warnings.simplefilter('ignore')
            fit(checkpoint(folder), *cbs, epochs=3, learn=learn)
        assert contents(folder)==files and all(map(torch.equal, weights, learn.model.parameters()))
    refused(make_learner(3), r'model.weight: \[3, 3\] here, \[2, 3\] there')
    refused(make_learner(), 'callback early_stopping: EarlyStopping here, nothing there', EarlyStopping())
    for path in folder.glob('checkpoint*'): path.write_bytes(newer(path.read_bytes()))
    refused(make_learner(), 'none of 2 files .* can be read')
