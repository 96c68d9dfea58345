"What the long commands of the Makefile say while they run."
import re, subprocess, sys

import heartbeat
import run_tests

def code(text): return [sys.executable, '-c', text]

def test_heartbeat(capfd):
    "It says what the command printed last, and everything only if that fails."
    assert heartbeat.main(code('import time; print("Collecting a"); print("  ━━ 3 MB"); time.sleep(2)'), every=0.5)==0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines)>=2 and lines[-1].endswith(' s  done: Collecting a')
    assert {line.partition(' s  ')[2] for line in lines[:-1]} <= {'Collecting a', 'starting'}
    assert heartbeat.main(code('print("  why"); raise SystemExit(3)'))==3
    assert re.fullmatch(r'  why\n\n +\d+ s  failed: exit status 3\n', capfd.readouterr().out)

def test_progress_of_notebooks():
    "As nbdev_test says when a notebook begins and ends."
    said = 'Starting /a/nbs/index.ipynb\nStarting /a/nbs/00_data.ipynb\n- Completed /a/nbs/index.ipynb\n'
    n = run_tests.N_NOTEBOOKS
    assert run_tests.progress('notebooks', '')==f'0 of {n} notebooks'
    assert run_tests.progress('notebooks', said)==f'1 of {n} notebooks, now 00_data'
    said += 'Starting /a/nbs/01_tables.ipynb\n'
    assert run_tests.progress('notebooks', said)==f'1 of {n} notebooks, now 00_data and 01_tables'

def test_progress_of_tests(tmp_path):
    "As pytest says it."
    (tmp_path/'test_it.py').write_text('import pytest\n@pytest.mark.parametrize("i", range(100))\ndef test(i): pass\n')
    run  = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '.']
    said = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True).stdout
    assert run_tests.progress('tests', said)=='100% of the tests'
    assert run_tests.progress('tests', said.splitlines()[0])=='72% of the tests'
    assert run_tests.progress('tests', '...')=='0% of the tests'
