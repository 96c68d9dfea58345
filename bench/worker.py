"One contender in a process of its own. Reads a line for each turn, trains, and answers with a line of JSON."
import gc, json, os, resource, sys, warnings

answers = os.fdopen(os.dup(1), 'w')
os.dup2(2, 1) # what the libraries print does not get between the answers
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

def memory(name, workload, n):
    "Peak memory of a process that trained one epoch, in MiB."
    work = loops.get_work(workload, n)
    turn(name, work)
    print(json.dumps(dict(peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)), file=answers, flush=True)

if __name__=='__main__':
    what,name,workload,n = sys.argv[1:]
    (main if what=='time' else memory)(name, workload, int(n))
