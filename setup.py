"Packages lesson9 from what `settings.ini` says, without `pkg_resources`."
import re
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
config = ConfigParser()
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

site,source = cfg['doc_host'] + cfg['doc_baseurl'],f"{cfg['git_url']}/blob/{cfg['branch']}"
statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable', '6 - Mature']

def absolute(text):
    "README.md for PyPI, where links into the checkout lead nowhere: a notebook is a page of the site."
    text = re.sub(r'\]\(nbs/(?:\d+[a-z0-9]*_)?(\w+)\.ipynb', rf']({site}/\1.html', text)
    return re.sub(r'\]\((?!\w+:|#)', f']({source}/', text)

setup(
    name             = cfg['lib_name'],
    version          = cfg['version'],
    description      = cfg['description'],
    long_description = absolute((here/'README.md').read_text(encoding='utf-8')),
    long_description_content_type = 'text/markdown',
    author           = cfg['author'],
    author_email     = cfg['author_email'],
    license_expression = 'Apache-2.0 AND CC-BY-SA-3.0', # the code, and MNIST
    license_files    = ['LICENSE'],
    keywords         = cfg['keywords'].split(),
    project_urls     = {
        'Homepage':      site,
        'Documentation': site,
        'Source':        cfg['git_url'],
        'Issues':        f"{cfg['git_url']}/issues",
        'Changelog':     f'{source}/CHANGELOG.md',
    },
    classifiers      = [
        f"Development Status :: {statuses[int(cfg['status'])-1]}",
        f"Intended Audience :: {cfg['audience']}",
        f"Natural Language :: {cfg['language']}",
        'Programming Language :: Python :: 3 :: Only',
        *(f'Programming Language :: Python :: {version}' for version in cfg['python_versions'].split()),
        *cfg['classifiers'].strip().splitlines(),
    ],
    packages         = [cfg['lib_name']],
    package_data     = {cfg['lib_name']: ['mnist/*', 'py.typed']},
    python_requires  = f">={cfg['min_python']}",
    install_requires = cfg['requirements'].split(),
    extras_require   = {extra: cfg[f'{extra}_requirements'].split()
                        for extra in ('dev', 'fuzz', 'release', 'tensorboard')},
    # nbdev finds the library's documentation index through this entry point
    entry_points     = {'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe         = False,
)
