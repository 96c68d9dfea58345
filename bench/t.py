import sys,torch,warnings; warnings.filterwarnings('ignore')
torch.set_num_threads(1)
import contenders, loops, worker, time
work=loops.get_work(sys.argv[1])
ref=worker.turn('hand',work)[1]
for k in contenders.ours+contenders.peers+[p+'_stats' for p in contenders.peers]:
    if len(sys.argv)>2 and k not in sys.argv[2:]: continue
    try:
        t0=time.time(); s,w=worker.turn(k,work); t=time.time()-t0
        r=ref if k!='lesson9_full' else worker.turn('hand_cycle',work)[1]
        b=worker.turn('hand',work)[0]
        s,w=worker.turn(k,work)
        print(f'{k:20} {1e6*(s-b)/len(work.batches()):7.1f} us  diff {float((w-r).abs().max()):.1e}  call {t:.2f}', file=sys.stderr)
    except Exception as e: print(k,type(e).__name__,e, file=sys.stderr)
