"""One contender in a process of its own. It reads lines, and answers each with a line of JSON:

    workload mlp16-bs64 12800    train for the first time; answers how many steps that were, and how right they were
    contender first              train four times: contender, loop by hand twice, contender; answers their seconds
    baseline first               the same, the other way round

Whatever makes the machine slower from one epoch to the next adds as much to the outer two as to the inner two."""
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

def prepare(name, work):
    "Warm up; return the number of steps, and how far the weights are from those of the loop by hand."
    _,found = turn(name, work)
    _,expected = turn(contenders.same_as.get(name, 'hand'), work)
    turn(contenders.against.get(name, 'hand'), work)
    gc.freeze() # what's loaded by now needn't be searched before each turn
    return dict(steps=len(work.batches()), weights_differ=float((found-expected).abs().max()))

def take_turns(name, work, contender_first):
    baseline = contenders.against.get(name, 'hand')
    outer,inner = (name, baseline) if contender_first else (baseline, name)
    first,second,third,fourth = (turn(which, work)[0] for which in (outer, inner, inner, outer))
    seconds = {outer: (first+fourth)/2, inner: (second+third)/2}
    if name==baseline: return dict(seconds=(first+fourth)/2, baseline=(second+third)/2) # against itself
    return dict(seconds=seconds[name], baseline=seconds[baseline])

def serve(name):
    for line in sys.stdin:
        first,*words = line.split()
        if first=='workload':
            work = loops.get_work(words[0], int(words[1]))
            answer = prepare(name, work)
        else: answer = take_turns(name, work, first=='contender')
        print(json.dumps(answer), file=answers, flush=True)

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
    what,name,*more = sys.argv[1:]
    if what=='time': serve(name)
    else: memory(name, more[0], int(more[1]))
