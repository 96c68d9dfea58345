"`make serve`: the site on this machine."
import sys, threading
from pathlib import Path
from urllib.request import urlopen

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent/'tools'))
import serve

def test_a_taken_port_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(serve, 'DOCS', tmp_path)
    (tmp_path/'index.html').write_text('a page')
    with serve.server(0) as taken: # 0: a port that's free
        with pytest.raises(OSError): serve.server(taken.server_port, tries=1)
        with serve.server(taken.server_port) as s:
            assert s.server_address[0]=='127.0.0.1' and s.server_port>taken.server_port
            threading.Thread(target=s.serve_forever, daemon=True).start()
            with urlopen(f'http://127.0.0.1:{s.server_port}', timeout=10) as page: assert page.read()==b'a page'
            s.shutdown()
