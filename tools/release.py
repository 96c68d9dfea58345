"""Try a release, or make one: `python tools/release.py [VERSION [--tag]]`

Builds an sdist, and a wheel from it, in a copy of what git knows; checks both, and trains with the wheel in an empty
environment. With VERSION, the copy gets that version, and CHANGELOG.md its heading; the changes are printed. With --tag
they are made here, committed and tagged, and the files are left in dist/. Nothing is uploaded."""
import argparse, datetime, difflib, re, shutil, subprocess, sys, tempfile
from pathlib import Path

from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
CHANGED = ['CHANGELOG.md', 'lesson9/__init__.py', 'settings.ini']
UNRELEASED = re.compile(r'^## Unreleased$', re.M)
VERSION = re.compile(r'^version *= *(.*)$', re.M)

def here(name): return Path(sys.executable).with_name(name) # a command of this environment

def run(*command, folder=ROOT):
    print('$', *(getattr(part, 'name', part) for part in command), flush=True) # without the folders of paths
    done = subprocess.run([str(part) for part in command], cwd=folder, check=False)
    if done.returncode: sys.exit('That failed: no release')

def git(*command, folder=ROOT):
    "What a git command prints."
    return subprocess.run(['git', *command], cwd=folder, check=True, capture_output=True, text=True).stdout

def refusal(folder, version):
    "Why `version` can't be released from the checkout in `folder`; None if it can."
    now = VERSION.search((folder/'settings.ini').read_text(encoding='utf-8'))[1]
    try: later = Version(version)>Version(now)
    except InvalidVersion: return f'{version} is no version: write 0.2.0, or 0.2.0rc1'
    public = Version(version).public
    if version!=public: return f'PyPI would call {version} {public}: write that'
    if not later: return f'{version} is not after {now}, the version in settings.ini'
    if git('tag', '--list', version, folder=folder): return f'there is a tag {version}'
    if changes := git('status', '--porcelain', folder=folder): return f'these changes are not committed:\n{changes}'
    if not UNRELEASED.search((folder/'CHANGELOG.md').read_text(encoding='utf-8')):
        return "CHANGELOG.md has no heading '## Unreleased', under which it says what is new"

def replace(path, pattern, text):
    path.write_text(pattern.sub(text, path.read_text(encoding='utf-8'), count=1), encoding='utf-8')

def prepare(folder, version, date):
    "Give the checkout in `folder` a version. Other lines of settings.ini stay as they are, comments included."
    replace(folder/'settings.ini', VERSION, f'version = {version}')
    replace(folder/'CHANGELOG.md', UNRELEASED, f'## {version}, {date}')
    run(here('nbdev_export'), folder=folder) # writes __version__

def show_changes(folder):
    for name in CHANGED:
        old,new = ((place/name).read_text(encoding='utf-8').splitlines() for place in (ROOT, folder))
        print(*difflib.unified_diff(old, new, name, name, n=0, lineterm=''), sep='\n')

def build(folder):
    "Build in `folder`, and check as PyPI does; return the sdist and the wheel."
    run(here('python'), '-m', 'build', '--quiet', '.', folder=folder) # the wheel is built from the sdist
    sdist,wheel = next(folder.glob('dist/*.tar.gz')),next(folder.glob('dist/*.whl'))
    run(here('twine'), 'check', '--strict', sdist, wheel)
    run(here('pyroma'), '--min', '10', sdist)
    return sdist,wheel

def try_wheel(wheel, folder):
    "Train with the wheel alone, in a new environment and an empty folder, with the newest that its requirements allow."
    python = folder/'venv'/'bin'/'python'
    torch  = re.search(r'^torch==\S+', (ROOT/'constraints.txt').read_text(), re.M)[0] # it's large, and pip has it
    run(here('python'), '-m', 'venv', folder/'venv')
    run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', torch, wheel)
    (folder/'empty').mkdir()
    run('env', '-u', 'PYTHONPATH', 'OMP_NUM_THREADS=1', python, ROOT/'tests'/'wheel_check.py', folder=folder/'empty')

def tag(folder, version):
    "Commit what `prepare` has changed, and nothing else, and tag it."
    run('git', 'add', *CHANGED, folder=folder)
    if changes := [line for line in git('status', '--porcelain', folder=folder).splitlines() if line[1]!=' ']:
        sys.exit('\n'.join(['nbdev_export has changed more than the version:', *changes]))
    run('git', 'commit', '--quiet', '-m', f'Release {version}', folder=folder)
    run('git', 'tag', '-a', version, '-m', f'lesson9 {version}', folder=folder)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('version', nargs='?')
    parser.add_argument('--tag', action='store_true')
    args = parser.parse_args()
    if args.tag and not args.version: parser.error('--tag needs a version')
    if args.version and (reason := refusal(ROOT, args.version)): sys.exit(f'No release: {reason}')

    date = datetime.date.today().isoformat()
    with tempfile.TemporaryDirectory() as folder:
        folder,copy = Path(folder),Path(folder)/'copy'
        for name in filter(None, git('ls-files', '-z').split('\0')):
            if not (ROOT/name).is_file(): continue # deleted, and not yet committed
            (copy/name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT/name, copy/name)
        if args.version:
            prepare(copy, args.version, date)
            show_changes(copy)
        files = build(copy)
        try_wheel(files[1], folder)
        if not args.version: return
        if args.tag:
            prepare(ROOT, args.version, date)
            tag(ROOT, args.version)
            (ROOT/'dist').mkdir(exist_ok=True)
            for path in files: shutil.copy(path, ROOT/'dist')

    print('\nTo publish it:' if args.tag else f'\nNothing has changed. `make release VERSION={args.version} TAG=1` '
          'changes the above, commits and tags it. Then publish it:')
    print(f'    git push origin HEAD {args.version}\n    .venv/bin/twine upload dist/lesson9-{args.version}*')

if __name__ == '__main__': main()
