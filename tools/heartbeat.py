"""Run a command that is silent for long, and show that it's alive: `python tools/heartbeat.py COMMAND...`

Every ten seconds a line says how long it has run, and what it printed last; the last line does so, too. If it fails,
everything follows."""
import os, subprocess, sys, tempfile, time
from pathlib import Path

def last_line(path, width=100):
    "The last line of a file that says in words what goes on, cut to `width`."
    lines = [line.strip()[:width] for line in path.read_text(encoding='utf-8', errors='replace').splitlines()]
    return next((line for line in reversed(lines)
                 if line[:1].isalnum() and not line.lower().startswith('warning')), 'starting')

def main(command, every=10):
    start = time.monotonic()
    def say(text): print(f'{time.monotonic()-start:5.0f} s  {text}', flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'output'
        with path.open('wb') as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT,
                                       env={**os.environ, 'PYTHONUNBUFFERED': '1'})
        while True:
            try: status = process.wait(every)
            except subprocess.TimeoutExpired: say(last_line(path))
            else: break
        if status: print(path.read_text(encoding='utf-8', errors='replace'))
        say(f'failed: exit status {status}' if status else f'done: {last_line(path)}')
    return status

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
