"""The page about language says that the Runner was not changed for it, and its benchmark runs."""
import ast, json, subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = 'nbs/30a_language.ipynb'

def git(*args):
    done = subprocess.run(['git', *args], cwd=ROOT, capture_output=True, text=True)
    if done.returncode: pytest.skip(f'git {args[0]} says: {done.stderr.strip()[:200]}')
    return done.stdout

def class_source(text, name):
    "The source of a class, without what stands around it in its module."
    return next(ast.get_source_segment(text, node) for node in ast.parse(text).body
                if isinstance(node, ast.ClassDef) and node.name==name)

@pytest.mark.parametrize('module, name', [('callbacks', 'Runner'), ('callbacks', 'Callback'), ('learner', 'Learner'),
                                          ('learner', 'DataBunch')])
def test_nothing_of_the_loop_changed_for_language(module, name):
    "The commit that brought the page has the class as the commit before has it."
    if git('rev-parse', '--is-shallow-repository').strip()=='true': pytest.skip('a shallow clone has no commit before')
    brought = git('log', '--diff-filter=A', '--format=%H', '--', PAGE).split()
    if not brought: pytest.skip(f'{PAGE} is in no commit')
    before,after = (git('show', f'{commit}:lesson9/{module}.py') for commit in (brought[-1]+'^', brought[-1]))
    assert class_source(before, name)==class_source(after, name)

def test_benchmark_can_be_tried_on_little_text(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(ROOT/'bench'))
    import language
    out = tmp_path/'language.json'
    monkeypatch.setattr('sys.argv', ['language', '--tiny', '--seeds', '1', '--rounds', '1', '--out', str(out)])
    language.main()
    found = json.loads(out.read_text())
    assert [len(found[part]['found']) for part in ('runs', 'dropout', 'parameters', 'data')]==[2, 1, 1, 1]
    assert found['runs']['machine']['versions']['torch']
    assert len(found['ngrams']['found'])==11
    for r in found['runs']['found']+found['parameters']['found']:
        assert len(r['valid_bits'])==2 and r['block_parameters']<r['parameters']
    assert found['parameters']['found'][0]['parameters']<found['runs']['found'][0]['parameters']
    some,fewer = (found[part]['found'][0]['characters'] for part in ('runs', 'data'))
    assert [*found['ngrams']['by_text']]==[str(some), str(fewer)] and 0.3<fewer/some<0.7
    assert language.thinned('a\n\nb\n\nc', 1)=='a\n\nb\n\nc' and language.thinned('a\n\nb\n\nc', 2)=='a\n\nc'
    assert [len(times) for times in found['speed']['found'].values()]==[1, 1, 1]
    assert 'times the loop by hand' in capsys.readouterr().out
