"""Start a function in several processes, as torchrun does, but as forks: they have imported everything already."""
import os, pickle, random, signal, socket, sys, tempfile, time, traceback
from pathlib import Path

import torch

def free_port():
    "A port below those that the system gives to connections, which would take it before it's used."
    ports = random.Random(os.urandom(8))
    while True:
        with socket.socket() as s:
            try: s.bind(('127.0.0.1', port := ports.randrange(10_000, 32_000)))
            except OSError: continue
            return port

class Processes:
    "`size` processes that call `f(*args)`; `results()` gives what each has returned, or its error as a text."
    def __init__(self, size, f, *args):
        import torch._dynamo # noqa: F401  DDP does, in each process, which takes longer than to train there
        self.folder = tempfile.TemporaryDirectory()
        port = free_port()
        sys.stdout.flush()
        self.status:dict[int, int] = {} # of those that have ended
        self.pids = [self.start(rank, size, port, f, args) for rank in range(size)]

    def path(self, rank, what): return Path(self.folder.name)/f'{rank}.{what}'

    def start(self, rank, size, port, f, args):
        if pid := os.fork(): return pid
        os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR='127.0.0.1',
                           MASTER_PORT=str(port))
        torch.cuda.is_available = lambda: False # a fork can't use CUDA if the process before it has
        sys.stdout,sys.stderr = open(1, 'w', closefd=False), open(2, 'w', closefd=False) # not pytest's
        out = os.open(self.path(rank, 'output'), os.O_CREAT|os.O_WRONLY|os.O_APPEND, 0o600)
        for fd in 1,2: os.dup2(out, fd)
        status = 1
        try:
            answer = pickle.dumps(f(*args))
            self.path(rank, 'answer').write_bytes(answer)
            status = 0
        except SystemExit as e: status = e.code if isinstance(e.code, int) else 1
        except BaseException as e: self.path(rank, 'error').write_text(''.join(traceback.format_exception(e)))
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def wait(self, timeout=120):
        "Wait for all; return their exit statuses. AssertionError if one lasts too long: all are killed."
        end,status = time.monotonic()+timeout,self.status
        while len(status)<len(self.pids):
            for rank,pid in enumerate(self.pids):
                if rank not in status and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    status[rank] = os.waitstatus_to_exitcode(found[1])
            if time.monotonic()>end:
                late = {rank: pid for rank,pid in enumerate(self.pids) if rank not in status}
                for pid in late.values():
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                status.update(dict.fromkeys(late, -signal.SIGKILL))
                errors = '\n'.join(filter(None, map(self.error, range(len(self.pids)))))
                raise AssertionError(f'processes {list(late)} did not end within {timeout} s\n{errors}')
            time.sleep(0.01)
        return [status[rank] for rank in range(len(self.pids))]

    def error(self, rank):
        "The traceback of the error that has ended a rank."
        path = self.path(rank, 'error')
        return path.read_text() if path.exists() else ''

    def output(self, rank):
        "What a rank has printed, on either stream."
        return self.path(rank, 'output').read_text()

    def results(self, timeout=120):
        status,ranks = self.wait(timeout),range(len(self.pids))
        assert not any(status), '\n'.join(filter(None, map(self.error, ranks))) or (status, *map(self.output, ranks))
        return [pickle.loads(self.path(rank, 'answer').read_bytes()) for rank in ranks]
