"Packages lesson9 from what `settings.ini` says, without `pkg_resources`."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
config = ConfigParser()
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']

setup(
    name             = cfg['lib_name'],
    version          = cfg['version'],
    description      = cfg['description'],
    long_description = (here/'README.md').read_text(encoding='utf-8'),
    long_description_content_type = 'text/markdown',
    author           = cfg['author'],
    author_email     = cfg['author_email'],
    license          = 'Apache-2.0',
    keywords         = cfg['keywords'].split(),
    url              = cfg['git_url'],
    packages         = [cfg['lib_name']],
    package_data     = {cfg['lib_name']: ['mnist/*', 'py.typed']},
    python_requires  = f">={cfg['min_python']}",
    install_requires = cfg['requirements'].split(),
    extras_require   = {extra: cfg[f'{extra}_requirements'].split() for extra in ('dev', 'fuzz', 'tensorboard')},
    # nbdev finds the library's documentation index through this entry point
    entry_points     = {'nbdev': [f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]},
    zip_safe         = False,
)
