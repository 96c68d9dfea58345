"""How well the GPT of the page about language predicts, by size and by text, and what its training loop costs.

    python bench/language.py                     all parts; writes bench/results/language.json (about an hour)
    python bench/language.py --parts speed       one part; the others stay as they are in the file
    python bench/language.py --tiny --out /tmp/try.json      a minute, to try it

ngrams      counted, of 1 to 15 characters, with Kneser-Ney smoothing; and 12-grams on less and less of the text
runs        the page's model, trained from five seeds
dropout     the same model with a dropout of 0.1, from two seeds
parameters  narrower models on the whole text, from two seeds each
data        smaller models on a half, a quarter ... of the text, with fewer steps, from two seeds each
speed       characters a second: the Runner, the same loop by hand, and a loop like that of minGPT's trainer, which take
            turns batch by batch

The parts that train do so with two models at a time, with a thread each. The last part runs alone."""
import argparse, contextlib, gc, io, json, math, multiprocessing, os, sys, time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

here = Path(__file__).parent
sys.path.insert(0, str(here))
os.environ |= {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(here.parent)}

import torch
from torch import nn, optim
from torch.utils import data as torch_data

from lesson9.averages import AvgStatsCallback
from lesson9.callbacks import DataBunch, Learner
from lesson9.epochs import StepsLoader
from lesson9.language import (GPT, Characters, bits_per_char, count_ngrams, decay_groups, get_prose, ngram_bits,
                              sequence_loss, windows)
from lesson9.minibatch import DataLoader
from lesson9.recipe import fit_one_cycle, one_cycle_runner
from lesson9.steps import GradientClip
from run import machine
from turns import take_turns

def train(settings, factor, seed):
    "Train a model on every `factor`th paragraph. Return its sizes, and the bits after each epoch."
    torch.set_num_threads(1)
    learn = make_learner(settings, factor, seed)
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        clip = GradientClip(norm=1.)
        run = fit_one_cycle(settings['epochs'], learn, settings['lr'], valid_metrics=bits_per_char, cbs=clip)
    seconds = time.perf_counter()-start
    history = run.progress.history
    blocks = sum(p.numel() for p in learn.model.blocks.parameters())
    return dict(settings=settings, seed=seed, characters=len(texts(factor)[0]), seconds=seconds,
                parameters=sum(p.numel() for p in learn.model.parameters()), block_parameters=blocks,
                train_bits=[row['train_loss']/math.log(2) for row in history],
                valid_bits=[row['valid_bits_per_char'] for row in history])

def thinned(text, factor):
    "Every `factor`th paragraph of a text: less of it, but from all of its pages."
    return '\n\n'.join(text.split('\n\n')[::factor])

def ngrams(factors):
    "Bits per character of n-grams of several lengths, and of 12-grams by the text they were counted in."
    train_text,valid_text = get_prose(here.parent/'nbs')
    n_chars,parts = len(set(train_text+valid_text)),[thinned(train_text, factor) for factor in factors]
    def bits(n, text): return ngram_bits(count_ngrams(text, n), valid_text, n_chars)
    found = {n: bits(n, parts[0]) for n in (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15)}
    return dict(machine=machine(), characters=len(parts[0]), found=found,
                by_text={len(part): bits(12, part) for part in parts})

def texts(factor=1):
    "The page's text as numbers, thinned to train on, and to validate on; and how many characters there are."
    train_text,valid_text = get_prose(here.parent/'nbs')
    characters = Characters(train_text+valid_text)
    return characters.encode(thinned(train_text, factor)),characters.encode(valid_text),len(characters)

def make_learner(settings, factor, seed):
    length,bs = settings['length'],settings['bs']
    train_chars,valid_chars,n_chars = texts(factor)
    train_dl = DataLoader(windows(train_chars, length), bs, shuffle=True)
    valid_dl = DataLoader(windows(valid_chars, length, length//2), 64)
    torch.manual_seed(seed)
    model = GPT(n_chars, *(settings[name] for name in ('width', 'n_layers', 'n_heads', 'dropout')))
    opt = optim.AdamW(decay_groups(model, 0.1), lr=settings['lr'], betas=(0.9, 0.99), fused=True)
    return Learner(model, opt, sequence_loss, DataBunch(StepsLoader(train_dl, settings['steps']), valid_dl))

class SingleWindows(torch_data.Dataset):
    "The windows of a text, one at a time."
    def __init__(self, text, length): self.text,self.length = text,length
    def __len__(self): return len(self.text)-self.length
    def __getitem__(self, i):
        window = self.text[i:i+self.length+1]
        return window[:-1],window[1:]

def by_hand(learn, settings, batches):
    "Train one epoch by the same loop written out."
    model,opt = learn.model,learn.opt
    sched = optim.lr_scheduler.OneCycleLR(opt, settings['lr'], total_steps=settings['steps']+1, pct_start=0.25)
    total,n = torch.zeros(()),0
    model.train()
    for xb,yb in batches:
        loss = sequence_loss(model(xb), yb)
        total += loss.detach()*len(xb)
        n += len(xb)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        opt.zero_grad()
        sched.step()
    float(total/n)

def mingpt_batches(settings):
    "A PyTorch loader of single windows, drawn with replacement."
    ds = SingleWindows(texts()[0], settings['length'])
    sampler = torch_data.RandomSampler(ds, replacement=True, num_samples=settings['bs']*settings['steps'])
    return torch_data.DataLoader(ds, settings['bs'], sampler=sampler)

def as_mingpt(learn, settings, batches):
    """Train as many steps by a loop such as https://github.com/karpathy/minGPT has in its trainer: a constant learning
    rate, and clipped gradients. It zeroes them after the step, not before: the next turn is another loop's."""
    model,opt = learn.model,learn.opt
    model.train()
    for xb,yb in batches:
        loss = sequence_loss(model(xb), yb)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.)
        opt.step()
        model.zero_grad(set_to_none=True)

def with_runner(learn, settings, batches):
    "Train one epoch by the Runner, as the page does but for the progress bar and validation."
    learn = Learner(learn.model, learn.opt, learn.loss_func, DataBunch(batches))
    one_cycle_runner(learn, settings['lr'], cbs=[GradientClip(norm=1.), AvgStatsCallback(log=None)]).fit(1, learn)

def speed(settings, rounds):
    "Train one model by all loops, which take turns batch by batch. Return the seconds of each epoch, by loop."
    torch.set_num_threads(1)
    learn = make_learner(settings, 1, 0)
    loops = {'Runner': with_runner, 'by hand': by_hand, 'as minGPT': as_mingpt}
    def epoch(names):
        gc.collect()
        loaders = {name: mingpt_batches(settings) if name=='as minGPT' else learn.data.train_dl for name in names}
        return take_turns({name: (partial(loops[name], learn, settings), loaders[name]) for name in names}, 1)
    epoch(loops) # isn't counted
    found = [epoch([*loops][::-1 if i%2 else 1]) for i in range(rounds)]
    return {name: [seconds[name] for seconds in found] for name in loops}

page = dict(length=128, width=128, n_layers=4, n_heads=4, dropout=0., bs=8, lr=3e-3, steps=250, epochs=10)
tiny = page | dict(length=32, width=32, n_layers=2, n_heads=2, steps=5, epochs=2)

def narrower(settings, factor):
    "A narrower model, trained with a larger learning rate."
    return settings | dict(width=round(settings['width']/factor), lr=settings['lr']*factor**0.5)

def for_less_text(settings, factor):
    "For a text that's shorter by `factor`: divide steps and parameters, which grow as width squared, by its root."
    width = round(settings['width']/factor**0.25/settings['n_heads'])*settings['n_heads']
    shorter = settings | dict(steps=round(settings['steps']/factor**0.5))
    return narrower(shorter, settings['width']/width)

def jobs(part, settings, factors, seeds):
    "The trainings of a part: settings, how thin the text is, and seed of each. The largest sizes are those of `runs`."
    whole,*less = factors
    if part=='runs': return [(settings, whole, seed) for seed in range(len(factors))]
    if part=='dropout': return [(settings | dict(dropout=0.1), whole, seed) for seed in range(seeds)]
    smaller = {'parameters': lambda k: (narrower(settings, k//whole), whole),
               'data':       lambda k: (for_less_text(settings, k//whole), k)}[part]
    return [(*smaller(k), seed) for k in less for seed in range(seeds)]

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ['ngrams', 'runs', 'dropout', 'parameters', 'data', 'speed']
    parser.add_argument('--parts', nargs='+', default=parts, choices=parts)
    parser.add_argument('--seeds', type=int, default=2, help='trainings for each size')
    parser.add_argument('--rounds', type=int, default=9, help='rounds of the part about speed')
    parser.add_argument('--tiny', action='store_true', help='a tiny model and little text')
    parser.add_argument('--out', type=Path, default=here/'results'/'language.json')
    args = parser.parse_args()

    settings,factors = (tiny, [64, 128]) if args.tiny else (page, [1, 2, 4, 8, 16]) # every how many-th paragraph
    out = json.loads(args.out.read_text()) if args.out.exists() else {}
    with ProcessPoolExecutor(2, multiprocessing.get_context('spawn')) as pool:
        trained = [part for part in args.parts if part not in ('ngrams', 'speed')]
        waiting = {part: pool.map(train, *zip(*jobs(part, settings, factors, args.seeds))) for part in trained}
        if 'ngrams' in args.parts:
            out['ngrams'] = ngrams(factors)
            args.out.write_text(json.dumps(out, indent=1)+'\n')
            print('n-grams:', ', '.join(f'{bits:.3f}' for bits in out['ngrams']['found'].values()), 'bits')
        for part,results in waiting.items():
            out[part] = dict(machine=machine(), settings=settings, found=[])
            for found in results: # a long run that is stopped keeps what it has
                out[part]['found'].append(found)
                args.out.write_text(json.dumps(out, indent=1)+'\n')
                show(part, found)

    if 'speed' in args.parts:
        settings = settings | dict(steps=min(settings['steps'], 50))
        out['speed'] = dict(machine=machine(), settings=settings, found=speed(settings, args.rounds))
        args.out.write_text(json.dumps(out, indent=1)+'\n')
        show('speed', out['speed']['found'])

def show(part, found):
    if part!='speed':
        print(f"{part}: width {found['settings']['width']:3}, {found['parameters']:7,} parameters, "
              f"{found['characters']:7,} characters, seed {found['seed']}: {found['valid_bits'][-1]:.3f} bits, "
              f"best {min(found['valid_bits']):.3f}; {found['seconds']:.0f} s", flush=True)
        return
    for name,seconds in found.items():
        ratios = [s/hand for s,hand in zip(seconds, found['by hand'])]
        print(f'{name:8} {median(seconds):.2f} s an epoch, {median(ratios):.3f} times the loop by hand '
              f'({min(ratios):.3f} to {max(ratios):.3f})')

if __name__=='__main__': main()
