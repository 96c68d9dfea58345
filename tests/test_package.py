"What the wheel and the sdist hold, and what they say of themselves. They are built from a copy of the checkout."
import ast, email, hashlib, os, re, shutil, subprocess, sys, tarfile, zipfile
from configparser import ConfigParser
from email.message import Message
from pathlib import Path

import pytest
import release
import yaml
from nbdev.doclinks import _nbpath2html as page_of

import lesson9

ROOT  = Path(__file__).resolve().parent.parent
NEEDS = ['torch', 'fastcore>=1.14', 'matplotlib', 'numpy', 'safetensors>=0.5', 'tqdm']
MNIST = [f'lesson9/mnist/{part}-ubyte.gz' for part in
         ('train-images-idx3', 'train-labels-idx1', 't10k-images-idx3', 't10k-labels-idx1')]
CONFIG = ConfigParser()
CONFIG.read(ROOT/'settings.ini', encoding='utf-8')
SETTINGS = CONFIG['DEFAULT']
SITE = SETTINGS['doc_host'] + SETTINGS['doc_baseurl']
NAME = f"lesson9-{SETTINGS['version']}"
LINK = re.compile(r'\]\(([^)]*)\)')
INFO = f'{NAME}.dist-info'

def build(folder, out, *kinds):
    "Build in `folder` as pip does, but with the setuptools that is here; return the files made."
    code = f'import setuptools.build_meta as b; print(*[getattr(b, f"build_{{k}}")({str(out)!r}) for k in {kinds}])'
    done = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode==0, done.stderr
    return [out/name for name in done.stdout.split()[-len(kinds):]]

@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "The files that git knows, and a wheel and an sdist of them, opened; then a wheel of what is in the sdist."
    pytest.importorskip('setuptools', reason='setuptools is not installed: no package was built')
    folder = tmp_path_factory.mktemp('package')
    names  = subprocess.run(['git', 'ls-files', '-z'], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, names.split('\0')):
        if not (ROOT/name).is_file(): continue # deleted, and not yet committed
        (folder/'tree'/name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT/name, folder/'tree'/name)
    sdist,wheel = build(folder/'tree', folder, 'sdist', 'wheel')
    with tarfile.open(sdist) as tar: tar.extractall(folder/'unpacked', filter='data')
    (folder/'again').mkdir()
    again, = build(folder/'unpacked'/NAME, folder/'again', 'wheel')
    return sdist,wheel,again

def opened(path):
    "The files in a wheel or an sdist: {name: bytes}."
    if path.suffix=='.whl':
        with zipfile.ZipFile(path) as z: return {name: z.read(name) for name in z.namelist()}
    with tarfile.open(path) as tar:
        return {m.name.partition('/')[2]: tar.extractfile(m).read() for m in tar if m.isfile()}

def package():
    "What users get: every module that a notebook is exported to, the data, and the mark for type checkers."
    text  = ''.join(path.read_text() for path in ROOT.glob('nbs/[0-9]*.ipynb'))
    found = re.findall(r'"#\| default_exp (\w+)"', text)
    return {f'lesson9/{name}.py' for name in ['__init__', '_modidx', 'all', *found]} | {
            'lesson9/py.typed', 'lesson9/mnist/README.md', *MNIST}

def test_wheel_holds(built):
    "The package and nothing else, byte for byte as in the checkout."
    files = opened(built[1])
    about = {f'{INFO}/{name}' for name in 'METADATA WHEEL RECORD top_level.txt entry_points.txt'.split()}
    licence = {name for name in files if name.startswith(INFO) and name.endswith('/LICENSE')}
    assert len(licence)==1 and set(files)==package() | about | licence
    assert len(package())>40
    for name in package(): assert files[name]==(ROOT/name).read_bytes(), name
    assert files[licence.pop()]==(ROOT/'LICENSE').read_bytes()
    assert files['lesson9/py.typed']==b'' and files[f'{INFO}/top_level.txt']==b'lesson9\n'
    assert b'Root-Is-Purelib: true\nTag: py3-none-any' in files[f'{INFO}/WHEEL'] # for any system

def test_sdist_holds(built):
    "All that a wheel is built from, and nothing else; the wheel that is built from it is the same."
    texts = 'SOURCES dependency_links entry_points requires top_level'.split()
    made  = {f'lesson9.egg-info/{name}' for name in ['PKG-INFO', 'not-zip-safe', *(f'{name}.txt' for name in texts)]}
    given = {'MANIFEST.in', 'LICENSE', 'README.md', 'pyproject.toml', 'setup.py', 'settings.ini'} | package()
    files = opened(built[0])
    assert set(files)==given | made | {'PKG-INFO', 'setup.cfg'}
    for name in given: assert files[name]==(ROOT/name).read_bytes(), name
    digests = [{name: hashlib.sha256(data).hexdigest() for name,data in opened(wheel).items()} for wheel in built[1:]]
    assert digests[0]==digests[1]

def test_metadata(built):
    "What pip and PyPI read."
    files = opened(built[1])
    about:Message = email.message_from_bytes(files[f'{INFO}/METADATA'])
    needs = about.get_all('Requires-Dist')
    assert [n for n in needs if 'extra ==' not in n]==NEEDS
    assert set(about.get_all('Provides-Extra'))=={'dev', 'fuzz', 'release', 'tensorboard'}
    assert [n for n in needs if n.endswith('extra == "tensorboard"')]==['tensorboard; extra == "tensorboard"']
    for name,value in {'Name': 'lesson9', 'Version': lesson9.__version__, 'Requires-Python': '>=3.11',
                       'License-Expression': 'Apache-2.0 AND CC-BY-SA-3.0', 'License': None, 'License-File': 'LICENSE',
                       'Description-Content-Type': 'text/markdown'}.items(): assert about[name]==value, name
    for name in 'Summary Keywords Author Author-email'.split(): assert about[name], name
    git = SETTINGS['git_url']
    assert dict(url.split(', ') for url in about.get_all('Project-URL'))=={
        'Homepage': SITE, 'Documentation': SITE, 'Source': git, 'Issues': f'{git}/issues',
        'Changelog': f"{git}/blob/{SETTINGS['branch']}/CHANGELOG.md"}
    kinds = {'Development Status', 'Framework', 'Intended Audience', 'Natural Language', 'Operating System',
             'Programming Language', 'Topic', 'Typing'} # and no licence, which is an expression now
    assert {kind.split(' :: ')[0] for kind in about.get_all('Classifier')}==kinds
    assert 'Typing :: Typed' in about.get_all('Classifier')
    assert files[f'{INFO}/entry_points.txt'].decode().split()==['[nbdev]', 'lesson9', '=', 'lesson9._modidx:d']

def test_readme_on_pypi(built):
    "The text of README.md. Its links into the checkout lead to the site's pages, and to GitHub."
    about  = email.message_from_bytes(opened(built[1])[f'{INFO}/METADATA'])
    readme = (ROOT/'README.md').read_text(encoding='utf-8')
    shown  = about.get_payload(decode=True).decode()
    assert LINK.sub('](', shown).strip()==LINK.sub('](', readme).strip()
    pairs  = [(old, new) for old,new in zip(LINK.findall(readme), LINK.findall(shown), strict=True) if old!=new]
    assert len(pairs)>40 and all(new.startswith('https://') for new in LINK.findall(shown))
    for old,new in pairs:
        assert (ROOT/old).is_file(), old
        assert new==(f'{SITE}/{page_of(Path(old)).name}' if old.startswith('nbs/') else
                     f"{SETTINGS['git_url']}/blob/{SETTINGS['branch']}/{old}")

def test_pythons(built):
    "Every Python that the package is said to run on, the workflow tries; the first is the oldest that pip accepts."
    about  = email.message_from_bytes(opened(built[1])[f'{INFO}/METADATA'])
    said   = re.findall(r'Programming Language :: Python :: (3\.\d+)', '\n'.join(about.get_all('Classifier')))
    job    = yaml.safe_load((ROOT/'.github'/'workflows'/'test.yml').read_text())['jobs']['wheel']
    assert said==job['strategy']['matrix']['python'] and about['Requires-Python']==f'>={said[0]}'
    assert f"git+{SETTINGS['git_url']}" in (ROOT/'README.md').read_text(encoding='utf-8')

def test_release(tmp_path, monkeypatch):
    "It refuses what can't be one, and changes a version, a heading and nothing else."
    monkeypatch.setattr(os, 'environ', {**os.environ, **{
        f'GIT_{who}_{what}': 'a@example.org' for who in ('AUTHOR', 'COMMITTER') for what in ('NAME', 'EMAIL')}})
    for name in [*release.CHANGED, 'nbs/23_jupyter.ipynb']: # what the package's __init__ is exported from
        (tmp_path/name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT/name, tmp_path/name)
    old  = {name: (tmp_path/name).read_text(encoding='utf-8') for name in release.CHANGED}
    news = old['CHANGELOG.md'].partition('\n## ')[0] + '\n## Unreleased\n\nNews.\n\n## 0.1.0\n'
    (tmp_path/'CHANGELOG.md').write_text(news, encoding='utf-8')
    def refusal(version): return release.refusal(tmp_path, version)
    def git(*command): return release.git(*command, folder=tmp_path)

    git('init', '--quiet')
    assert 'not committed' in refusal('9.8.0')
    release.prepare(tmp_path, SETTINGS['version'], '2001-02-03') # so that nbdev's index is there
    (tmp_path/'CHANGELOG.md').write_text(news, encoding='utf-8')
    git('add', '.')
    git('commit', '--quiet', '-m', 'all')
    assert refusal('9.8.0') is None
    for spelled in 'v9.8.0','9.8.0-rc1','9.8.0+here': assert 'PyPI would call' in refusal(spelled), spelled
    assert 'is no version' in refusal('next') and 'is not after' in refusal(SETTINGS['version'])

    release.prepare(tmp_path, '9.8.0', '2001-02-03')
    new = {name: (tmp_path/name).read_text(encoding='utf-8') for name in release.CHANGED}
    line = f"\nversion = {SETTINGS['version']}\n"
    assert new['settings.ini']==old['settings.ini'].replace(line, '\nversion = 9.8.0\n')!=old['settings.ini']
    assert new['CHANGELOG.md']==news.replace('## Unreleased', '## 9.8.0, 2001-02-03')
    assert '\n__version__ = "9.8.0"\n' in new['lesson9/__init__.py']
    assert ast.get_docstring(ast.parse(new['lesson9/__init__.py'])), 'the version stands before the docstring'

    (tmp_path/'other').write_text('')
    with pytest.raises(SystemExit, match='other'): release.tag(tmp_path, '9.8.0')
    (tmp_path/'other').unlink()
    release.tag(tmp_path, '9.8.0')
    assert git('tag')=='9.8.0\n' and git('status', '--porcelain')==''
    assert sorted(git('diff', '--name-only', 'HEAD~').split())==release.CHANGED
    assert 'has no heading' in refusal('9.9.0') and 'is not after' in refusal('9.8.0')
    git('tag', '9.9.0')
    assert 'there is a tag' in refusal('9.9.0')

def imports(path):
    "Packages that a module imports: with itself, and later, inside a function."
    tree  = ast.parse(path.read_text(encoding='utf-8'))
    inner = {n for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda) for n in ast.walk(f)}
    found = {True: set(), False: set()}
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module] if isinstance(node, ast.ImportFrom) and node.level==0 else []
        found[node in inner] |= {name.partition('.')[0] for name in names} - set(sys.stdlib_module_names)
    return found[False],found[True]

def test_requirements_are_what_is_imported():
    "Only what is required, and all of it; what Jupyter brings is imported where Jupyter is."
    with_itself,later = (set().union(*parts) for parts in zip(*map(imports, ROOT.glob('lesson9/*.py'))))
    needs = {re.split('[>=]', need)[0] for need in NEEDS}
    assert with_itself<=needs<=with_itself | later
    assert later-needs=={'IPython', 'matplotlib_inline'}
