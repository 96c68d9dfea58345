"""Start a function in several processes, as torchrun does, but as forks: they have imported everything already."""
import os, pickle, signal, socket, sys, tempfile, time, traceback
from pathlib import Path

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

class Processes:
    "`size` processes that call `f(*args)`; `results()` gives what each has returned, or its error as a text."
    def __init__(self, size, f, *args):
        self.folder = tempfile.TemporaryDirectory()
        port = free_port()
        sys.stdout.flush()
        self.pids = [self.start(rank, size, port, f, args) for rank in range(size)]

    def start(self, rank, size, port, f, args):
        if pid := os.fork(): return pid
        os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(size), MASTER_ADDR='127.0.0.1',
                           MASTER_PORT=str(port))
        status = 1
        try:
            answer = f(*args)
            (Path(self.folder.name)/str(rank)).write_bytes(pickle.dumps(answer))
            status = 0
        except SystemExit as e: status = e.code
        except BaseException as e:
            (Path(self.folder.name)/f'{rank}.error').write_text(''.join(traceback.format_exception(e)))
        finally:
            sys.stdout.flush()
            os._exit(status)

    def wait(self, timeout=60):
        "Wait for all; return their exit statuses. AssertionError if one lasts too long: all are killed."
        end,status = time.monotonic()+timeout,{}
        while len(status)<len(self.pids):
            for rank,pid in enumerate(self.pids):
                if rank not in status and (found := os.waitpid(pid, os.WNOHANG))[0]:
                    status[rank] = os.waitstatus_to_exitcode(found[1])
            if time.monotonic()>end:
                late = {rank: pid for rank,pid in enumerate(self.pids) if rank not in status}
                for pid in late.values():
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                raise AssertionError(f'processes {list(late)} did not end within {timeout} s')
            time.sleep(0.01)
        return [status[rank] for rank in range(len(self.pids))]

    def error(self, rank):
        path = Path(self.folder.name)/f'{rank}.error'
        return path.read_text() if path.exists() else ''

    def results(self, timeout=60):
        status = self.wait(timeout)
        assert not any(status), '\n'.join(filter(None, map(self.error, range(len(status))))) or status
        return [pickle.loads((Path(self.folder.name)/str(rank)).read_bytes()) for rank in range(len(status))]
