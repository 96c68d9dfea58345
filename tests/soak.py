"""Hours of what may happen to a run: it's killed at any moment and started again, and it trains for very long.

    python tests/soak.py                        all parts; about seven minutes, on Linux
    KILLS=1000 python tests/soak.py kills       one part, with another number of kills
    TMPDIR=/dev/shm python tests/soak.py kills  on another file system

- `kills`: SIGKILL at random times, until KILLS have hit a run that wasn't done. Processes are forks, which start fast.
- `commands`: the same with COMMANDS kills of processes that start Python anew.
- `moments`: SIGKILL before, in and after each call that changes a file, in turn.
- `fits`: FITS short fits in one process.
- `batches`: one fit of BATCHES batches.
- `ranks`: SIGKILL of random ranks of two that train together, until RANK_KILLS have hit a run that wasn't done.
- `launched`: what torchrun does if one of its processes is killed, fails, hangs, or gets a signal.

A run that was killed has to end with the weights, histories and files of a run that was never stopped, bit for bit;
and whenever it's killed, each file that is called a checkpoint can be read. `fits` and `batches` may make nothing grow:
memory, hooks, threads, open files, objects. SEED draws other times. `--out FILE` keeps the figures, and those of parts
that weren't run this time; exit status 1: something failed."""
import argparse, ctypes, gc, hashlib, io, itertools, json, math, os, platform, random, re, shutil, signal
import subprocess, sys, tempfile, time, traceback, warnings
from collections import Counter
from pathlib import Path
from statistics import median

os.environ['OMP_NUM_THREADS'] = '1'
import numpy as np, torch
torch.set_num_threads(1) # a process with several threads can't be forked
import torch.nn.functional as F
from torch import nn, optim

from lesson9 import files
from lesson9.all import *
from lesson9.files import flatten, load_tensors
from lesson9.restore import learner_state, rng_state
from lesson9.weights import read_model
from processes import Processes

def setting(name, usual): return int(os.environ.get(name, usual))
KILLS,COMMANDS,SEED = setting('KILLS', 300),setting('COMMANDS', 10),setting('SEED', 0)
FITS,BATCHES = setting('FITS', 2000),setting('BATCHES', 200_000)
RANK_KILLS = setting('RANK_KILLS', 40)

# What is started again and again: an epoch has six batches

EPOCHS,KEEP = 12,2 # it stops early: after nine epochs
rng = torch.Generator().manual_seed(0)
x = torch.randn(260, 64, generator=rng)
y = (x[:,:10] + 0.5*torch.randn(260, 10, generator=rng)).argmax(1)

def new_learner(bs=32, nh=400, **settings):
    "A learner, the same at every call."
    for seed in random.seed, np.random.seed, torch.manual_seed: seed(0)
    data  = DataBunch(*get_dls(Dataset(x[:192], y[:192]), Dataset(x[192:], y[192:]), bs, **settings), c=10)
    model = nn.Sequential(nn.Linear(64, nh), nn.BatchNorm1d(nh), nn.ReLU(), nn.Dropout(0.3), nn.Linear(nh, 10))
    return Learner(model, optim.AdamW(model.parameters(), lr=0.003), F.cross_entropy, data)

def train(folder, epochs, every, more=()):
    "The command: train in `folder`, or go on there; return a text for each thing that must be equal."
    warnings.simplefilter('error') # such as a file that is passed over
    learn = new_learner()
    folder.mkdir(exist_ok=True)
    cbs = [*more, AvgStatsCallback(accuracy, log=None), Recorder(), ParamScheduler('lr', sched_cos(0.003, 0.0003)),
           Seed(1), EarlyStopping(patience=2), SaveBest(folder/'best.safetensors'), CSVLogger(folder/'log.csv')]
    if every: cbs += [Checkpoint(folder/'run', seconds=None, every=every, keep=KEEP, log=None)]
    run = Runner(cbs)
    begun()
    run.fit(epochs, learn)
    parts = dict(learner=learner_state(learn), losses=run.recorder.state_dict(), history=run.avg_stats.state_dict(),
                 stopping=run.early_stopping.state_dict(), best=run.save_best.state_dict(), n_iter=run.n_iter,
                 generators=rng_state(learn.data))
    hashes = {name: digest(part) for name,part in parts.items()}
    for name in 'best.safetensors','log.csv': hashes[name] = hashlib.sha256((folder/name).read_bytes()).hexdigest()
    return hashes

def digest(state):
    tensors,plain = flatten(state)
    parts = [(k, t.reshape(-1).view(torch.uint8).numpy().tobytes()) for k,t in sorted(tensors.items()) if t.numel()]
    return hashlib.sha256(repr((parts, plain)).encode()).hexdigest()

# Processes: forks of this one, which has imported everything and has trained nothing

def import_rest(): new_learner() # the first optimiser imports a thousand modules
def begun(): os.write(Child.into, b'>') # the parent is told

problems = []
def check(ok, problem):
    if not ok: problems.append(problem)
    if not ok and len(problems)<=20: print('FAILED:', problem, flush=True)
    return ok

class Child:
    "A process that calls `work(*args)` and answers with what that returns."
    into = None # in such a process: the pipe to the parent
    def __init__(self, work, *args):
        self.pipe,into = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid: self.answer(into, work, args)
        os.close(into)

    @classmethod
    def answer(cls, into, work, args):
        cls.into,status = into,1
        gc.freeze() # what the parent has made needn't be looked at
        try:
            answer = json.dumps(work(*args)).encode()
            with open(into, 'wb') as f: f.write(answer)
            status = 0
        except BaseException: traceback.print_exc()
        finally: os._exit(status) # nothing of the parent's is cleaned up

    def has_begun(self):
        os.read(self.pipe, 1)
        return self

    def kill_after(self, seconds):
        time.sleep(seconds)
        os.kill(self.pid, signal.SIGKILL)
        return self

    def end(self):
        "Wait for it; return its answer, or None if it was killed before it had one."
        with open(self.pipe, 'rb') as f: answer = f.read().removeprefix(b'>')
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        check(status in (0, -signal.SIGKILL), f'a process ended with {status}')
        return json.loads(answer) if answer else None

def train_anew(*args):
    "Train as a process that starts Python, as a command does."
    os.set_inheritable(Child.into, True)
    os.execv(sys.executable, [sys.executable, __file__, '--train', str(Child.into), *map(str, args)])

def look(folder, before, what):
    "Check all files of a run that was killed; return (number of the newest checkpoint, files of saves cut short)."
    run,numbers,cut = folder/'run',[],set()
    for path in run.glob('checkpoint_*'):
        if path.suffix=='.part': cut.add(path.name)
        else:
            numbers.append(int(path.stem.rpartition('_')[2]))
            readable(load_tensors, path, what)
    if (folder/'best.safetensors').exists(): readable(read_model, folder/'best.safetensors', what)
    if (folder/'log.csv').exists(): check((folder/'log.csv').read_bytes()[-2:]==b'\r\n', f'{what}: half a CSV file')
    newest = max(numbers, default=-1)
    check(newest>=before, f'{what}: the newest checkpoint was {before}, and is {newest}')
    check(len(numbers)<=KEEP+1, f'{what}: {len(numbers)} checkpoints')
    return newest,cut

def readable(read, path, what):
    try: read(path)
    except Exception as e: check(False, f'{what}: {path.name}: {e}')

def finished(folder, expected, found, what):
    "Compare a run that is complete with one that was never stopped; delete it."
    differs = [k for k in expected if found.get(k)!=expected[k]] if check(found, f'{what}: no answer') else []
    check(not differs, f'{what}: another {", ".join(differs)} than that of a run that was never stopped')
    names = sorted(path.name for path in (folder/'run').glob('checkpoint_*'))
    # One more than KEEP: nothing is saved, and deleted, after a kill between the last save and what it deletes
    check(0<len(names)<=KEEP+1 and not any(name.endswith('.part') for name in names), f'{what}: files {names}')
    shutil.rmtree(folder)
    return not differs

# Killed at random times

def kills(folder, n=KILLS, command=train):
    import_rest()
    rng = random.Random(SEED)
    never = Child(train, folder/'never', EPOCHS, 0).end()
    found,lengths = Counter(kills=0, progress=0, in_save=0, runs=0, equal=0),[]
    for i in range(2):
        child,start = Child(command, folder/f'whole {i}', EPOCHS, 1).has_begun(),time.perf_counter()
        check(child.end()==never, 'a Checkpoint changes the run')
        lengths.append(time.perf_counter()-start)
    while found['kills']<n:
        own,every = folder/f"{found['runs']}",1+found['runs']%2
        newest,cut = -1,set()
        for i in itertools.count():
            if len(problems)>20 or not check(i<1000, 'killed 1,000 times, a run is still not done'): return dict(found)
            answer = Child(command, own, EPOCHS, every).has_begun().kill_after(rng.uniform(0, 0.4*min(lengths))).end()
            if answer: break # it was done before
            what = f"run {found['runs']}, kill {i}"
            (before,old),(newest,cut) = (newest,cut),look(own, newest, what)
            found.update(kills=1, progress=newest>before, in_save=len(cut-old)>0)
        found.update(runs=1, equal=finished(own, never, answer, f"run {found['runs']}, complete"))
    print(f"{found['kills']} kills in {found['runs']} runs of {min(lengths):.2f} s, {found['progress']} after "
          f"progress, {found['in_save']} inside a save; {found['equal']} runs are equal")
    return dict(found)

def commands(folder, n=COMMANDS): return kills(folder, n, train_anew)

# Killed at each call that changes a file

class Points:
    "Count the points before, in and after each call that changes a file; kill this process at number `kill_at`."
    def __init__(self, kill_at=None):
        self.names,self.kill_at = [],kill_at
        for name in 'fsync','replace','unlink': setattr(os, name, self.watched(name, getattr(os, name)))
        files.open = self.open

    def pass_by(self, name):
        if len(self.names)==self.kill_at: os.kill(os.getpid(), signal.SIGKILL)
        self.names.append(name)

    def watched(self, name, call):
        def stand_in(*args, **kwargs):
            self.pass_by(f'before {name}')
            call(*args, **kwargs)
            self.pass_by(f'after {name}')
        return stand_in

    def open(self, path, mode):
        if not set(mode) & set('wxa+'): return open(path, mode)
        self.pass_by('before open')
        raw = WatchedFile(path, mode)
        raw.points = self
        self.pass_by('after open')
        return io.BufferedWriter(raw) # as the usual `open` does it

class WatchedFile(io.FileIO):
    def write(self, data):
        self.points.pass_by('before write')
        data = memoryview(data).cast('B')
        half = super().write(data[:len(data)//2])
        self.points.pass_by('in write')
        rest = super().write(data[half:])
        self.points.pass_by('after write')
        return half+rest

def train_watched(folder, epochs, every, kill_at=None):
    points = Points(kill_at)
    hashes = train(folder, epochs, every)
    return dict(hashes=hashes, points=points.names)

def check_order(points):
    "Look for what a power failure could undo: a rename or a deletion before what it needs is on the disk."
    waits = None # the last change that isn't on the disk
    for name in points:
        if name=='after write': waits = 'write'
        if name=='after fsync': waits = None
        if name=='before replace': check(waits!='write', 'a file was renamed before it was on the disk')
        if name=='after unlink': check(waits!='replace', 'a file was deleted before a new one was on the disk')
        if name=='after replace': waits = 'replace'
    check(waits is None, f'a {waits} was never on the disk')

def moments(folder, epochs=3, every=4, opened=None):
    "Kill at all points of a run, or only at those of the file that is opened as number `opened`."
    import_rest()
    never  = Child(train, folder/'never', epochs, 0).end()
    whole  = Child(train_watched, folder/'whole', epochs, every).end()
    points = whole['points']
    check(whole['hashes']==never, 'a Checkpoint changes the run')
    check_order(points)
    starts = [i for i,name in enumerate(points) if name=='before open'] + [len(points)]
    chosen = range(len(points)) if opened is None else range(*starts[opened:opened+2])
    found,equal = Counter(),0
    for i in chosen:
        what,own = f'killed {points[i]}, point {i}',folder/f'{i}'
        answer = Child(train_watched, own, epochs, every, i).end()
        if not check(answer is None, f'{what}: it was done'): break
        look(own, -1, what)
        equal += finished(own, never, Child(train, own, epochs, every).end(), what)
        found[points[i]] += 1
        if len(problems)>20: break
    print(f'killed at {found.total()} points, {equal} runs are equal: ' +
          ', '.join(f'{n} {name}' for name,n in found.items()))
    return dict(points=dict(found), equal=equal)

# Growth

LIBC = ctypes.CDLL(None)

def begin_samples():
    "Objects that are there already aren't counted. No page gets larger than 4 KiB, which would look like growth."
    for i in range(100_000): sys.intern(f'soak {i}') # Python's table of names doubles now, not later
    gc.collect()
    gc.freeze()
    LIBC.prctl(41, 1, 0, 0, 0) # PR_SET_THP_DISABLE

def sample(model):
    "Count what must not grow; memory in KiB, without the code of libraries, which comes page by page."
    gc.collect()
    if hasattr(LIBC, 'malloc_trim'): LIBC.malloc_trim(0) # what is free goes back to the system
    objects = gc.get_objects()
    memory = int(re.search(r'Anonymous: *(\d+) kB', Path('/proc/self/smaps_rollup').read_text())[1])
    hooks = sum(len(hooks) for m in model.modules() for k,hooks in vars(m).items() if k.endswith('_hooks'))
    return dict(memory=memory, hooks=hooks, objects=len(objects),
                ours=sum(str(type(o).__module__).startswith('lesson9') for o in objects),
                files=len(os.listdir('/proc/self/fd')), threads=len(os.listdir('/proc/self/task')))

def check_growth(what, samples, n, limits):
    "Compare the last quarter of samples with the second one, in units per 1,000; the first one warms up."
    quarter = len(samples)//4
    early,late = samples[quarter:2*quarter],samples[3*quarter:]
    grown = {k: (median(s[k] for s in late) - median(s[k] for s in early))/(n/2)*1000 for k in samples[0]}
    for k,growth in grown.items():
        check(growth<=limits.get(k, 0), f'{what}: {k} grew by {growth:.2f} per 1,000 (at most {limits.get(k, 0)})')
    print(f'{what}: {n:,}; grown per 1,000: ' + ', '.join(f'{k} {v:.2f}' for k,v in grown.items()) +
          f"; memory is {samples[-1]['memory']/1024:.0f} MiB")
    return dict(n=n, grown_per_1000=grown, samples=samples)

def many_fits(folder, n):
    "Fit one model again and again, each time with new callbacks and a new Runner; in between, one fit fails."
    begin_samples()
    warnings.simplefilter('error')
    learn,samples = new_learner(nh=20),[]
    sink = open(os.devnull, 'w')
    sys.stdout = sys.stderr = sink
    for i in range(n):
        for path in folder.glob('*.*'): path.unlink()
        cbs = [ProgressCallback(accuracy), Recorder('weight_decay'), ParamScheduler('lr', sched_cos(0.003, 0.0003)),
               Seed(1), DeviceCallback('cpu'), MixedPrecision(torch.bfloat16), GradientClip(norm=1.),
               GradientAccumulation(2), ActivationStats(), EarlyStopping(), SaveBest(folder/'best.safetensors'),
               CSVLogger(folder/'log.csv'), Checkpoint(folder, every=3, resume=i%2==1, log=None)]
        Runner(cbs).fit(1, learn)
        if (i+1)%max(n//40, 1)==0: samples.append(sample(learn.model))
    return samples

def fits(folder, n=FITS):
    samples = Child(many_fits, folder, n).end()
    # 1 KiB a fit: less than a single callback, a Runner or one of its tensors takes
    return check_growth('fits', samples, n, dict(memory=1000, objects=10))

class Samples(Callback):
    "Take a sample after every `every` batches."
    order = Checkpoint.order + 1
    def __init__(self, every): self.every,self.samples = every,[]
    def after_batch(self):
        if self.in_train and self.n_iter%self.every==0: self.samples.append(sample(self.model))

def many_batches(folder, n):
    "One fit. Without `Recorder`, which keeps a loss and a rate of each batch."
    begin_samples()
    warnings.simplefilter('error')
    learn,epochs = new_learner(nh=20),20
    learn.data.train_dl = StepsLoader(learn.data.train_dl, n//epochs)
    cbs = [AvgStatsCallback(accuracy, log=None), ParamScheduler('lr', sched_cos(0.003, 0.0003)), Seed(1),
           DeviceCallback('cpu'), GradientClip(norm=1.), TerminateOnNaN(), EarlyStopping(patience=epochs),
           SaveBest(folder/'best.safetensors'), CSVLogger(folder/'log.csv'), Checkpoint(folder, seconds=1, log=None),
           keep := Samples(n//40)]
    Runner(cbs).fit(epochs, learn)
    return keep.samples

def batches(folder, n=BATCHES):
    samples = Child(many_batches, folder, n).end()
    # 5 bytes a batch: less than a list needs to point to one more number
    return check_growth('batches', samples, n, dict(memory=5, objects=1))

# Several processes, of which random ones are killed

def train_together(folder, every, more=()):
    "The command of each process. What only rank 0 keeps isn't compared."
    warnings.filterwarnings('ignore', module='torch')
    hashes = train(folder, EPOCHS, every, [Distributed(timeout=60), GradientAccumulation(2), *more])
    del hashes['best']
    return hashes

class Together:
    "Ranks of which one can be killed."
    def __init__(self, size, *args):
        self.pipe,Child.into = os.pipe()
        self.processes = Processes(size, train_together, *args)
        os.close(Child.into)
        Child.into,self.size = None,size

    def have_begun(self):
        "Wait until all ranks know each other."
        for _ in range(self.size): os.read(self.pipe, 1)
        return self

    def kill_after(self, seconds, rank):
        time.sleep(seconds)
        os.kill(self.processes.pids[rank], signal.SIGKILL)
        return self

    def end(self, what):
        "Wait for all; return what all ranks have answered, or None. One that wasn't killed ends because of the other."
        os.close(self.pipe)
        status = self.processes.wait(90)
        if any(status):
            check(all(code in (0, 1, -signal.SIGKILL) for code in status), f'{what}: ended with {status}')
            for rank,code in enumerate(status):
                if code==1: check('another process has ended' in (e := self.processes.error(rank)), f'{what}: {e}')
            return None
        first,*others = self.processes.results()
        for other in others: check(other==first, f'{what}: ranks have different results')
        return first

def ranks(folder, n=RANK_KILLS, size=2):
    import_rest()
    rng = random.Random(SEED)
    never = Together(size, folder/'never', 0).end('never killed')
    whole = Together(size, folder/'whole', 1).have_begun()
    begun_at = time.perf_counter()
    answer = whole.end('never killed')
    check(answer is not None and answer==never, 'a Checkpoint changes the run of several ranks')
    length = time.perf_counter()-begun_at
    found = Counter(kills=0, of_rank_0=0, progress=0, in_save=0, runs=0, equal=0)
    over = []
    while found['kills']<n:
        own,every = folder/f"{found['runs']}",1+found['runs']%2
        newest,cut = -1,set()
        for i in itertools.count():
            if len(problems)>20 or not check(i<1000, 'killed 1,000 times, a run is still not done'): return dict(found)
            rank,what = rng.randrange(size),f"run {found['runs']} of {size} ranks, kill {i}"
            together = Together(size, own, every).have_begun().kill_after(rng.uniform(0, 0.7*length), rank)
            killed = time.perf_counter()
            if answer := together.end(what): break # it was done before
            over.append(time.perf_counter()-killed)
            (before,old),(newest,cut) = (newest,cut),look(own, newest, what)
            found.update(kills=1, of_rank_0=rank==0, progress=newest>before, in_save=len(cut-old)>0)
        found.update(runs=1, equal=finished(own, never, answer, f"run {found['runs']} of {size} ranks, complete"))
    print(f"{found['kills']} kills in {found['runs']} runs of {length:.2f} s, {found['progress']} after progress, "
          f"{found['in_save']} inside a save; the other ranks ended within {max(over):.1f} s; "
          f"{found['equal']} runs are equal")
    return dict(found) | dict(size=size, others_ended_within=round(max(over), 1))

# torchrun, and what it does if something happens to one of its processes

class Launched:
    "A torchrun that calls `happens` of this file in each of its processes."
    def __init__(self, folder, what, restarts=0, size=2):
        folder.mkdir(exist_ok=True)
        self.folder,self.start = folder,time.monotonic()
        launcher = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(size),
                    '--max-restarts', str(restarts)]
        self.process = subprocess.Popen([*launcher, __file__, '--launched', what, str(folder)], text=True, cwd=folder,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def end(self, timeout=180):
        "Wait for it: its status, and the seconds since something has happened. All end in any case."
        try: self.output = self.process.communicate(timeout=timeout)[0]
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.output = f'{self.process.communicate()[0]}\ndid not end within {timeout} s'
        happened = self.folder/'happened'
        self.seconds = time.time()-happened.stat().st_mtime if happened.exists() else 0.
        happened.unlink(missing_ok=True)
        self.cause = self.output.partition('Root Cause')[2] # of several failures, the first
        return self.process.returncode

    def answers(self):
        "What all ranks have answered: equal, else None."
        paths = list(self.folder.glob('answer_*'))
        texts = [path.read_text() for path in paths]
        for path in paths: path.unlink()
        return json.loads(texts[0]) if len(texts)==2 and texts[0]==texts[1] else None

class Happens(Callback):
    "Something happens to rank 1, in the middle of an epoch."
    order = MixedPrecision.order # in `after_backward`, before gradients are used
    def __init__(self, what, folder, at=15): self.what,self.folder,self.at = what,folder,at
    def after_pred(self):
        me,attempt = int(os.environ['RANK']),int(os.environ.get('TORCHELASTIC_RESTART_COUNT', '0'))
        times = dict(killed=(9, 16, 34), once=(15,)).get(self.what)
        if not self.in_train or me!=1 or times and attempt>=len(times): return
        if times: self.at = times[attempt]
        if self.run.n_iter>self.at and self.what=='stop torchrun': time.sleep(0.05) # until it comes
        if self.run.n_iter!=self.at: return
        (self.folder/'happened').touch()
        if times: os.kill(os.getpid(), signal.SIGKILL)
        if self.what=='raise': raise ValueError('a bad sample')
        if self.what=='hang': time.sleep(3600)
        if self.what in ('nan', 'check'): self.run.pred = self.pred*math.nan
        if self.what=='stop': os.kill(os.getpid(), signal.SIGTERM)
        if self.what=='stop torchrun': os.kill(os.getppid(), signal.SIGTERM)

def happens(what, folder):
    "What each process of torchrun does."
    warnings.filterwarnings('ignore')
    own = {'hang': [Distributed(timeout=5)], 'nan': [TerminateOnNaN(every=1)], 'check': [CheckFinite()]}.get(what, [])
    learn = new_learner()
    cbs = [AvgStatsCallback(accuracy, log=None), Recorder(), GradientAccumulation(2), *own]
    cbs.append(Happens(what, folder, at=14 if what=='check' else 15)) # 14: no other rank has its gradients yet
    if what!='hang': cbs.append(Distributed(timeout=60))
    if what in ('killed', 'once', 'stop', 'stop torchrun', 'go on'):
        cbs.append(Checkpoint(folder/'run', seconds=None, every=2, log=None))
    run = Runner(cbs)
    run.fit(8, learn)
    learner = None if what=='nan' else digest(learner_state(learn)) # of NaN, bits may differ
    answer = dict(learner=learner, losses=run.recorder.losses, history=run.avg_stats.history)
    (folder/f"answer_{os.environ['RANK']}").write_text(json.dumps(answer))
    if what=='once': Runner([Happens('raise', folder, at=2), Distributed(timeout=60)]).fit(1, learn)

def happened(folder, what, status, cause=(), answer=None, restarts=0, within=30):
    "Launch it; check the exit status, the root cause that torchrun shows, and how long it took."
    run = Launched(folder, what, restarts)
    text = f'torchrun, {what}'
    found = run.end()
    if not check(found==status, f'{text}: ended with {found}'): print(run.output)
    for part in cause:
        if not check(part in run.cause, f'{text}: the root cause says nothing of {part!r}'): print(run.output)
    check(run.seconds<within, f'{text}: over after {run.seconds:.0f} s')
    if answer is not None: check(run.answers()==answer, f'{text}: not the results of a run to which nothing happened')
    return run

def launched_runs(folder):
    never = Launched(folder/'never', 'nothing')
    check(never.end()==0, f'torchrun: {never.output}')
    answer,found = never.answers(),{}
    check(answer is not None, 'torchrun: two ranks, two results')
    def at(what, *args, **kwargs):
        run = happened(folder/what, what, *args, **kwargs)
        found[what] = round(run.seconds, 1)
        return run
    at('killed', 0, answer=answer, restarts=3, within=90)
    at('raise', 1, ['rank      : 1', 'in after_pred', 'ValueError: a bad sample'])
    at('hang', 1, ['rank      : 0', 'RuntimeError', 'was too slow'], within=35)
    ended = at('nan', 0).answers()
    check(ended and len(ended['losses'])==16, f'torchrun, nan: {ended}')
    at('check', 1, ['rank      : 1', 'FloatingPointError: training batch 2 of epoch 2: the loss is nan'])
    for what in 'stop','stop torchrun':
        at(what, 1, [f'exitcode  : {128+signal.SIGTERM}'] if what=='stop' else [])
        files = list((folder/what/'run').glob('checkpoint_*'))
        check(len(files)>0 and not any(path.suffix=='.part' for path in files), f'torchrun, {what}: files {files}')
        go_on = Launched(folder/what, 'go on')
        check(go_on.end()==0 and go_on.answers()==answer, f'torchrun, {what}, and on: {go_on.output}')
    return dict(seconds_until_over=found)

# All of it

PARTS = dict(kills=kills, commands=commands, moments=moments, fits=fits, batches=batches, ranks=ranks,
             launched=launched_runs)

def file_system(folder):
    "The type of the file system that a folder is on."
    mounts = [line.split()[1:3] for line in Path('/proc/mounts').read_text().splitlines()]
    inside = [(len(Path(at).parts), kind) for at,kind in mounts if folder.resolve().is_relative_to(at)]
    return max(inside)[1]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('parts', nargs='*', help=f'some of: {", ".join(PARTS)}')
    parser.add_argument('--out', type=Path)
    parser.add_argument('--train', nargs=4, help=argparse.SUPPRESS) # see `train_anew`
    parser.add_argument('--launched', nargs=2, help=argparse.SUPPRESS) # see `Launched`
    args = parser.parse_args()
    if args.launched: return happens(args.launched[0], Path(args.launched[1]))
    if args.train:
        into,folder,epochs,every = args.train
        Child.answer(int(into), train, (Path(folder), int(epochs), int(every)))
    if not sys.platform.startswith('linux'): sys.exit('make soak needs Linux')
    with tempfile.TemporaryDirectory() as folder:
        about = dict(file_system=file_system(Path(folder)), python=platform.python_version(), torch=torch.__version__,
                     seed=SEED)
        print(', '.join(f'{k} {v}' for k,v in about.items()), flush=True)
        found = {}
        for name in args.parts or PARTS: # an unknown one is a KeyError
            start,own = time.monotonic(),Path(folder)/name
            own.mkdir()
            before = len(problems)
            found[name] = PARTS[name](own) | dict(failed=len(problems)-before)
            found[name]['seconds'] = round(time.monotonic()-start)
            print(f'{name}: {time.monotonic()-start:.0f} s', flush=True)
    if args.out: # figures of parts that weren't run stay as they are
        kept = json.loads(args.out.read_text()) if args.out.exists() else {}
        if set(found)>=set(PARTS): kept = {}
        kept = (kept or about) | found
        kept['failed'] = sum(part.get('failed', 0) for part in kept.values() if isinstance(part, dict))
        args.out.write_text(json.dumps(kept, indent=1) + '\n')
    print('FAILED' if problems else 'passed')
    sys.exit(1 if problems else 0)

if __name__=='__main__': main()
