"Run with the Python of an environment that holds only the wheel, in an empty directory: trains on the bundled data."
import statistics, subprocess, sys
from pathlib import Path

def seconds(code):
    "Seconds that a new Python process takes for `code`, timed inside it."
    timed = f'import time; start = time.perf_counter()\n{code}\nprint(time.perf_counter()-start)'
    run = subprocess.run([sys.executable, '-c', timed], check=True, capture_output=True, text=True)
    return float(run.stdout.split()[-1])

assert not list(Path.cwd().iterdir()), 'run this in an empty directory'
import lesson9, fastcore, torch.nn.functional as F
assert 'site-packages' in lesson9.__file__, f'not the installed package: {lesson9.__file__}'
from lesson9.all import *

x_train,y_train,x_valid,y_valid = get_data()
data = DataBunch(*get_dls(Dataset(x_train, y_train), Dataset(x_valid, y_valid), bs=64), c=10)
learn = create_learner(get_model_func(0.5), F.cross_entropy, data)
schedule = combine_scheds([0.3, 0.7], cos_1cycle_anneal(0.2, 0.6, 0.05))
run = Runner([AvgStatsCallback(accuracy), Recorder(), ParamScheduler('lr', schedule)])
run.fit(2, learn)
accuracy_reached = run.avg_stats.history[-1]['valid_accuracy']
assert accuracy_reached > 0.95, accuracy_reached

# The recipe in a line, with what only the library's own requirements bring.
run = fit_one_cycle(1, learn, 0.3, accuracy)
assert run.progress.history[-1]['valid_accuracy'] > 0.95

# Importing everything may cost at most 0.8 s more than importing torch: medians of runs that take turns, after one to
# warm up.
pairs = [(seconds('import torch'), seconds('from lesson9.all import *')) for _ in range(6)][1:]
extra = statistics.median(b-a for a,b in pairs)
print(f'fastcore {fastcore.__version__}: importing lesson9.all takes {extra:.2f} s more than torch '
      f'(median of {len(pairs)})')
assert extra < 0.8, pairs
