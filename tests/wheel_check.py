"""Run with the Python of an environment that holds only the wheel, in an empty directory: trains on the bundled data.

The first script is README.md's, as it stands there."""
import re, subprocess, sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent/'README.md'

def output(*args): return subprocess.run([sys.executable, *args], check=True, capture_output=True, text=True).stdout

def seconds(code):
    "Seconds of the processor that a new Python process takes for `code`."
    return float(output('-c', f'import time; start = time.process_time()\n{code}\nprint(time.process_time()-start)'))

assert not list(Path.cwd().iterdir()), 'run this in an empty directory'
import lesson9, fastcore, torch, torch.nn.functional as F
assert 'site-packages' in lesson9.__file__, f'not the installed package: {lesson9.__file__}'
print(f'Python {sys.version.split()[0]}, torch {torch.__version__}, fastcore {fastcore.__version__}', flush=True)

Path('first.py').write_text(re.search('^```python\n(.*?)^```', README.read_text(encoding='utf-8'), re.M|re.S)[1])
table = output('first.py')
print(table)
assert len(table.splitlines())==4 and float(table.split()[-1]) > 0.96, table

# The recipe in a line, with what only the library's own requirements bring.
from lesson9.all import *
x_train,y_train,x_valid,y_valid = get_data()
x_train,x_valid = normalize_to(x_train, x_valid)
data = DataBunch(*get_dls(Dataset(x_train, y_train), Dataset(x_valid, y_valid), bs=64), c=10)
learn = create_learner(get_model_func(0.5), F.cross_entropy, data)
run = fit_one_cycle(1, learn, 0.3, accuracy)
assert run.progress.history[-1]['valid_accuracy'] > 0.93

# Importing everything may cost at most 0.8 s more than importing torch: the least of a few runs that take turns.
pairs = [(seconds('import torch'), seconds('from lesson9.all import *')) for _ in range(5)]
extra = min(b for a,b in pairs)-min(a for a,b in pairs)
print(f'importing lesson9.all takes {max(extra, 0):.2f} s more than torch')
assert extra < 0.8, pairs
