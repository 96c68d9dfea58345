"One contender in a process of its own. Reads a line for each turn, trains, and answers with a line of JSON."
import gc, json, os, sys, warnings

answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1) # what the libraries print must not mix with the answers
warnings.filterwarnings('ignore')

import torch
torch.set_num_threads(1)

import contenders, loops

def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])

def turn(name, work):
    "Seconds of one epoch, and the final weights."
    model = work.model()
    gc.collect()
    seconds = getattr(contenders, name)(work, model).seconds
    return seconds,weights(model)

def main(name, workload, n):
    work = loops.get_work(workload, n)
    baseline = contenders.against.get(name, 'hand')
    steps = len(work.batches())
    _,found = turn(name, work) # also warms up
    _,expected = turn(contenders.same_as.get(name, 'hand'), work)
    turn(baseline, work)
    print(json.dumps(dict(steps=steps, weights_differ=float((found-expected).abs().max()))), file=answers, flush=True)
    for line in sys.stdin:
        contender_first = line.strip()=='contender first'
        order = [name, baseline] if contender_first else [baseline, name]
        seconds = [turn(which, work)[0] for which in order]
        own,base = seconds if contender_first else reversed(seconds)
        print(json.dumps(dict(seconds=own, baseline=base)), file=answers, flush=True)

def status(key):
    "A line of /proc/self/status, in MiB."
    with open('/proc/self/status') as f: return next(int(l.split()[1])/1024 for l in f if l.startswith(key+':'))

def memory(name, workload, n):
    "Memory in MiB of a process that trains one epoch: its peak, and how much of that training added. Needs Linux."
    work = loops.get_work(workload, n)
    turn(name, loops.get_work(workload, 1000)) # allocates what's allocated once
    with open('/proc/self/clear_refs', 'w') as f: f.write('5') # forget the peak of loading the data
    before = status('VmRSS')
    turn(name, work)
    peak = status('VmHWM')
    print(json.dumps(dict(peak_mib=peak, added_mib=peak-before)), file=answers, flush=True)

if __name__=='__main__':
    what,name,workload,n = sys.argv[1:]
    (main if what=='time' else memory)(name, workload, int(n))
