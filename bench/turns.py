"""Let training loops take turns within an epoch, a few batches each: neighbours then meet the same machine, and what
comes once an epoch counts as much as it does in training."""
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from threading import Semaphore
from time import perf_counter

class Turn:
    "A loader that waits for its turn after every `length` batches, and has a stopwatch that stops meanwhile."
    def __init__(self, batches, length, waiting):
        self.batches,self.length,self.waiting = batches,length,waiting
        self.mine,self.seconds,self.start = Semaphore(0),0.,None

    def __len__(self): return len(self.batches)
    def __iter__(self):
        if self.start is None: self.start = perf_counter()
        for i,batch in enumerate(self.batches):
            if i and i%self.length==0: self.wait()
            yield batch

    def wait(self):
        "Let the one go on that has waited longest."
        self.stop()
        self.waiting.append(self)
        self.waiting.popleft().mine.release()
        self.mine.acquire()
        self.start = perf_counter()

    def stop(self):
        "Count the seconds up to now. The stopwatch goes on."
        now = perf_counter()
        if self.start is not None: self.seconds += now-self.start # otherwise it never got to its first batch
        self.start = now

    def run(self, loop):
        "Call `loop` with this loader, once it's its turn. The stopwatch runs from the first batch until it returns."
        self.mine.acquire()
        try: loop(self)
        finally:
            self.stop()
            if self.waiting: self.waiting.popleft().mine.release()

def take_turns(
    loops,  # a dict of pairs by name: a function of a loader, and the loader
    length, # batches of a turn
) -> dict: # by name, the seconds from the first batch until the function returned
    "Run all loops, each in a thread of its own, of which only one isn't waiting."
    waiting = deque()
    turns = {name: Turn(batches, length, waiting) for name,(_,batches) in loops.items()}
    waiting.extend(turns.values())
    with ThreadPoolExecutor(len(loops)) as pool:
        runs = [pool.submit(turn.run, loops[name][0]) for name,turn in turns.items()]
        waiting.popleft().mine.release()
        for run in runs: run.result()
    return {name: turn.seconds for name,turn in turns.items()}
