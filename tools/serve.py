"""Serve _docs/ to this machine alone: `python tools/serve.py [port]`. If that port is taken, the next free one."""
import sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent/'_docs'

def server(port, tries=100):
    "A server at the first free port from `port` on. OSError if none of `tries` is free."
    handler = partial(SimpleHTTPRequestHandler, directory=DOCS)
    for p in range(port, port+tries):
        try: return ThreadingHTTPServer(('127.0.0.1', p), handler)
        except OSError as e: error = e
    raise error

def main():
    wanted = int(sys.argv[1]) if len(sys.argv)>1 else 8000
    with server(wanted) as s:
        port = s.server_port
        if port!=wanted: print(f'port {wanted} is taken')
        print(f'http://127.0.0.1:{port} (end with Ctrl-C)', flush=True)
        try: s.serve_forever()
        except KeyboardInterrupt: print()

if __name__ == '__main__': main()
