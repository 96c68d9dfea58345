"""The files of the page "On a cluster", on two machines that are two network namespaces of Linux.

A cable of their own (a veth pair) is all that connects them: what doesn't go over it doesn't arrive. This needs root
and the command `ip`; where one is missing, the tests are skipped. CLUSTERS=1 also tries what takes longer: torchrun
restarts both machines, a machine joins, one is cut off from torchrun's store; and the pods of the PyTorchJob."""
import ast, json, os, runpy, shutil, signal, subprocess, sys, time
from pathlib import Path

import pytest, torch

from processes import Processes, free_port

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT/'nbs'/'24j_clusters.ipynb'
TIMEOUT = 10 # seconds, of `Distributed`
LONG = pytest.mark.skipif('CLUSTERS' not in os.environ, reason='takes a minute: set CLUSTERS=1')

# The files of the page

def from_page():
    "The files that the page writes, and the callbacks that it adds to its script, by name."
    cells = [cell for cell in json.loads(PAGE.read_text(encoding='utf-8'))['cells'] if cell['cell_type']=='code']
    trees = [ast.parse(code) for code in (''.join(cell['source']) for cell in cells) if not code.startswith('#| hide')]
    found = {}
    for node in (node for tree in trees for node in tree.body):
        match node:
            case ast.Expr(ast.Call(ast.Name('write'), [ast.Constant(name), ast.Constant(text)])): found[name] = text
            case ast.Assign([ast.Name(name)], ast.Constant(str(text))) if 'class ' in text: found[name] = text
            case ast.FunctionDef('with_callback' | 'pod_env' as name): found[name] = ast.unparse(node)
    return found

FILES = from_page()

def alone(folder):
    os.chdir(folder)
    sys.argv = ['train.py', 'alone', '60']
    runpy.run_path('train.py')

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder with the files, and the weights of one process."
    folder = tmp_path_factory.mktemp('cluster')
    names  = {'folder': folder}
    exec(FILES['with_callback'], names)
    for name in 'train.py', 'node.sh', 'elastic.sh': (folder/name).write_text(FILES[name].lstrip())
    (folder/'slow.py').write_text(names['with_callback'](FILES['slow'], 'Slow'))
    (folder/'fails_once.py').write_text(names['with_callback'](FILES['fails_once'], 'FailsOnce'))
    Processes(1, alone, folder).results(240)
    return folder

def env(**more):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return os.environ | dict(PATH=path, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1') | more

def weights(folder, name): return torch.load(folder/name/'weights.pt')
def difference(folder, one, other):
    one,other = weights(folder, one),weights(folder, other)
    return max((one[k]-other[k]).abs().max().item() for k in one)

# Two machines

class TwoMachines:
    "Two network namespaces, with an end of a cable in each."
    heads = '10.99.0.1','10.99.0.2'
    def __init__(self):
        self.names = [f'l9-{os.getpid()}-{i}' for i in range(2)]
        self.net   = 'cable'
        self.running = []

    def __enter__(self):
        try:
            for name in self.names: ip('netns', 'add', name)
            one,other = self.names
            ip('link', 'add', self.net, 'netns', one, 'type', 'veth', 'peer', 'name', self.net, 'netns', other)
            for name,head in zip(self.names, self.heads):
                ip('-n', name, 'addr', 'add', f'{head}/24', 'dev', self.net)
                for link in 'lo', self.net: ip('-n', name, 'link', 'set', link, 'up')
        except (OSError, subprocess.CalledProcessError) as e:
            self.__exit__()
            why = getattr(e, 'stderr', None) or e
            pytest.skip(f'no network namespaces here ({str(why).strip()}): two machines were not tested')
        return self

    def __exit__(self, *_):
        if not shutil.which('ip'): return
        for name in self.names: # torchrun's processes, too: they have sessions of their own
            pids = subprocess.run(['ip', 'netns', 'pids', name], capture_output=True, text=True, check=False).stdout
            for pid in map(int, pids.split()):
                try: os.kill(pid, signal.SIGKILL)
                except ProcessLookupError: pass
            subprocess.run(['ip', 'netns', 'del', name], stderr=subprocess.DEVNULL, check=False)
        for process in self.running: process.wait()

    def start(self, folder, log, command, between=None, **more):
        "Start a command on both machines, the second after `between`; what they print goes into two files."
        self.running = []
        for i,name in enumerate(self.names):
            if i and between: between()
            own = env(**dict(NODE=str(i), HEAD=self.heads[0], NET=self.net, PER_NODE='1', NODES='2') | more)
            with (folder/f'{log}.{i}.log').open('w') as output:
                self.running.append(subprocess.Popen(['ip', 'netns', 'exec', name, *command], cwd=folder, env=own,
                    stdout=output, stderr=subprocess.STDOUT))

    def wait(self, timeout):
        "Wait for both; return their statuses, None for one that hasn't ended by then."
        end = time.monotonic()+timeout
        while time.monotonic()<end and any(process.poll() is None for process in self.running): time.sleep(0.05)
        return [process.poll() for process in self.running]

    def cable(self, state): ip('-n', self.names[1], 'link', 'set', self.net, state)

def ip(*args): subprocess.run(['ip', *args], check=True, capture_output=True, text=True)

def logs(folder, name): return [(folder/f'{name}.{i}.log').read_text() for i in range(2)]

def wait_for(path, timeout=120):
    end = time.monotonic()+timeout
    while not path.exists():
        assert time.monotonic()<end, f'no {path.name}'
        time.sleep(0.05)

@pytest.fixture
def machines():
    with TwoMachines() as machines: yield machines

def test_two_machines_train_as_one_process(folder, machines):
    machines.start(folder, 'two', ['bash', 'elastic.sh', 'train.py', 'two', '60'])
    assert machines.wait(240)==[0, 0], logs(folder, 'two')
    assert difference(folder, 'alone', 'two')<1e-12

@LONG
def test_a_machine_is_cut_off(folder, machines):
    "All ends with an error that says so, and a restart goes on bit for bit."
    command = ['bash', 'node.sh', 'slow.py', 'cut', str(TIMEOUT)]
    machines.start(folder, 'cut', command, SLOW='0.2')
    wait_for(folder/'cut'/'checkpoint_0000_00000002.safetensors')
    machines.cable('down')
    assert machines.wait(TIMEOUT+30)==[1, 1], logs(folder, 'cut')
    for log in logs(folder, 'cut'):
        assert 'Timed out waiting' in log and 'another process has ended' in log, log
    assert not (folder/'cut'/'weights.pt').exists()

    machines.cable('up')
    machines.start(folder, 'again', command)
    assert machines.wait(240)==[0, 0], logs(folder, 'again')
    assert 'going on in epoch' in logs(folder, 'again')[0]
    if not (folder/'two').exists(): test_two_machines_train_as_one_process(folder, machines)
    assert difference(folder, 'two', 'cut')==0

@LONG
def test_torchrun_restarts_both_machines(folder, machines):
    machines.start(folder, 'restarted', ['bash', 'elastic.sh', 'fails_once.py', 'restarted', '60'], RESTARTS='1')
    assert machines.wait(400)==[0, 0], logs(folder, 'restarted')
    assert 'going on in epoch 1' in ''.join(logs(folder, 'restarted'))
    assert difference(folder, 'alone', 'restarted')<1e-12

@LONG
def test_a_machine_joins(folder, machines):
    "One machine begins, alone; with the second all processes start again, and go on."
    command = ['bash', 'elastic.sh', 'slow.py', 'joined', '60']
    begun   = folder/'joined'/'checkpoint_0000_00000001.safetensors'
    machines.start(folder, 'joined', command, lambda: wait_for(begun), NODES='1:2', SLOW='0.6')
    assert machines.wait(400)==[0, 0], logs(folder, 'joined')
    assert 'going on in epoch' in logs(folder, 'joined')[0]
    assert difference(folder, 'alone', 'joined')<1e-12

@LONG
def test_cut_off_from_the_store_of_torchrun(folder, machines):
    "The processes end after the timeout, their torchrun when the system gives up the connection."
    for name in machines.names: ip('netns', 'exec', name, 'sysctl', '-qw', 'net.ipv4.tcp_retries2=5')
    machines.start(folder, 'store', ['bash', 'elastic.sh', 'slow.py', 'store', str(TIMEOUT)], SLOW='0.2', RESTARTS='0')
    wait_for(folder/'store'/'checkpoint_0000_00000002.safetensors')
    machines.cable('down')
    assert machines.wait(TIMEOUT+90)==[1, 1], logs(folder, 'store')

@LONG
def test_pods_of_a_pytorchjob(folder):
    "The command of each pod, with the variables that the operator gives it."
    yaml  = pytest.importorskip('yaml', reason='PyYAML is not installed: the PyTorchJob was not tested')
    names = {}
    exec(FILES['pod_env'], names)
    job = yaml.safe_load(FILES['first.yaml'])
    job['spec']['nprocPerNode'] = '1' # there may be two cores
    here = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(free_port()), GLOO_SOCKET_IFNAME='lo')
    here |= {f'PET_{name}': here[name] for name in ('MASTER_ADDR', 'MASTER_PORT')}
    pods = []
    for kind,spec in job['spec']['pytorchReplicaSpecs'].items():
        container, = spec['template']['spec']['containers']
        own     = {variable['name']: variable['value'] for variable in container['env']}
        command = [part.replace('/checkpoints/', '') for part in container['command']]
        for i in range(spec['replicas']):
            pods.append(subprocess.Popen(command, cwd=folder, env=env(**own | names['pod_env'](job, kind, i) | here)))
    try: status = [pod.wait(240) for pod in pods]
    finally:
        for pod in pods: pod.terminate()
    assert status==[0, 0]
    assert difference(folder, 'alone', 'first')<1e-12
