"""Coverage-guided fuzzing of what reads other people's files, and of schedules.

`python tests/fuzz_files.py reader 20000` tries 20,000 inputs. Targets: `reader` (load_tensors and unflatten), `idx`
(load_idx), `scheds` (combine_scheds). atheris changes inputs so that they reach new lines. Only documented errors may
be raised, memory is bounded, and nothing may take more than ten seconds. A failing input is written to a file
`crash-...`; `python tests/fuzz_files.py reader 1 crash-...` runs it again. More options are libFuzzer's."""
import copy, gzip, hashlib, json, math, random, resource, struct, sys, tempfile, time
from collections import Counter
from pathlib import Path

try: import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install -c constraints.txt -e '.[fuzz]'; it has wheels for Linux, and "
             'Python 3.11 to 3.14')

import numpy, torch

with atheris.instrument_imports(include=['lesson9.files', 'lesson9.data', 'lesson9.anneal']):
    from lesson9 import anneal, data, files

FOLDER = Path(tempfile.mkdtemp(dir='/dev/shm' if Path('/dev/shm').is_dir() else None))
FILE   = FOLDER/'input'
SPARE  = 100*2**20 # bytes that reading may take, beside three times the file
SPLIT  = b'\xff\xfe'
seen   = Counter()

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024

# The reader: a byte that says what is done with it, plain values, list of tensors, numbers

def states():
    "States of all kinds, to begin with."
    yield None
    yield {'a': torch.arange(3.), 'b': [1, 2.5, 'x', None, True, (1, 2)], 'c': {'d': torch.tensor(7)}}
    yield {0: [0.5]*20, (1, 'x'): tuple(range(20)), 'pairs': [(0.1, 0.2)]*16, 'big': 2**70, 'no': [math.nan, -math.inf]}
    yield [numpy.arange(4, dtype='u2').reshape(2, 2), numpy.ones((), 'f4'), Counter('aab'), torch.ones(2).bfloat16()]
    yield {'a.b': torch.zeros(1), 'a': {'b': torch.zeros(0, 2)}, '__metadata__': torch.ones(1, dtype=torch.complex64)}

def parts(tensors, plain):
    "A file's plain values, its list of tensors, and their numbers."
    files.save_tensors(FILE, tensors, plain)
    whole = FILE.read_bytes()
    size  = struct.unpack('<Q', whole[:8])[0]
    found = files._header.match(whole[8:8+size])
    return files.json.loads(found[2]).encode('latin-1'),whole[8+found.end():8+size],whole[8+size:]

def reader_seeds():
    for state in states():
        plain,listed,numbers = parts(*files.flatten(state))
        yield b'\x02' + SPLIT.join([plain, listed, numbers])
        yield b'\x06' + SPLIT.join([plain, listed, numbers])
        yield b'\x00' + FILE.read_bytes() # as it is
    for i in range(len(SOUND)): yield bytes([8+i]) + plain

FEW   = dict(a=torch.ones(3, dtype=torch.float64), b=torch.ones(2, 2, dtype=torch.int64), c=torch.ones(()).bfloat16())
SOUND = [parts({name: t for j,(name,t) in enumerate(FEW.items()) if i>>j & 1}, None)[1:] for i in range(8)]

def repeated(text):
    "The second third of it, as often as the limits allow and more."
    a,b = len(text)//3,2*len(text)//3
    return text[:a] + text[a:b]*(2**20//(b-a+1)) + text[b:]

BITS = dict(F64=64, I64=64, U64=64, C64=64, F32=32, I32=32, U32=32, F16=16, BF16=16, I16=16, U16=16, F4=4)

def fitting(listed, numbers):
    "The list of tensors with places that fit types and shapes, and as many numbers, if that isn't too many."
    try:
        tensors,end = json.loads(b'{' + listed[1:]),0
        for about in tensors.values():
            size = math.prod(map(int, about['shape']))*BITS.get(about['dtype'], 8)//8
            about['data_offsets'] = [end, end := end+size]
        if not 0<=end<2**20: return listed,numbers
        return b',' + json.dumps(tensors).encode()[1:],numbers[:end].ljust(end, b'x')
    except Exception: return listed,numbers # no longer a list of tensors

def assemble(given):
    "The file that an input stands for, in most cases with the right checksum."
    kind,rest = given[0] if given else 0,given[1:]
    if kind%16==0: return rest
    plain,listed,numbers = (rest.split(SPLIT, 2) + [b'', b''])[:3]
    if kind%16 in (6, 7): listed,numbers = fitting(listed, numbers)
    if kind%16>7: listed,numbers = SOUND[kind%8] # only the plain values are odd
    if kind%16 in (4, 5) and hashlib.sha256(given).digest()[0]<4: # seldom, since it takes long
        plain,listed = (repeated(plain), listed) if kind%16==4 else (plain, repeated(listed))
    plain = plain.decode('latin-1')
    begin = files._begin(plain, '0'*64)
    size  = struct.pack('<Q', len(begin+listed))
    if kind%16>1: begin = files._begin(plain, hashlib.sha256(size+begin+listed+numbers).hexdigest())
    return size+begin+listed+numbers

VALUES = [None, True, 0, 1, -1, 2**40, 2**63, 2**64, 1.5, 1e300, '', 'a', 'b', 'c', '0x', 'nan', [], {}, [0],
          [2**40, 0], ['tensor'], ['tensor', 'a'], ['array', 'b'], ['long list', 'a'], ['long tuple', 'b'],
          ['int', '-0xf'], ['int'], ['float', 'inf'], ['dict', [0], [1]], ['Counter', ['a'], [2]], 'list', 'tuple',
          'dict', 'OrderedDict', 'int', 'float', 'F64', 'I64', 'BF16', 'C64', 'U32', 'F8_E4M3', 'F8_E8M0', 'F4',
          'BOOL', '\ud800', '__metadata__']

def places(box):
    "Where values stand in a nesting of lists and dicts: (container, key)."
    for key,value in list(box.items() if isinstance(box, dict) else enumerate(box)):
        yield box,key
        if isinstance(value, (dict, list)): yield from places(value)

def change_json(text, rng):
    "Change one value, somewhere in a JSON text."
    root = [json.loads(text)]
    found = [*places(root)]
    box,key = rng.choice(found)
    other,at = rng.choice(found)
    how = rng.randrange(6)
    if how==0 and box is not root: del box[key]
    elif how==1: box[key] = copy.deepcopy(other[at])
    elif how==2: box[key] = [rng.choice(VALUES), box[key]]
    elif how==3 and isinstance(box[key], list): box[key].insert(rng.randrange(len(box[key])+1), rng.choice(VALUES))
    elif how==4 and isinstance(box, dict): box[str(rng.choice(VALUES))] = box.pop(key)
    else: box[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(root[0], separators=(',', ':')).encode('latin-1')

def change(given, most, seed):
    "Change one part of an input, so that the others stay sound: a value in it, or any bytes."
    rng = random.Random(seed)
    kind,parts = given[:1],given[1:].split(SPLIT, 2)
    i = rng.choice([None, 0, 0, 0, 0, 1, 1, 2])
    if i is None or len(parts)<=i: return atheris.Mutate(given, most)
    if i<2 and rng.random()<0.7:
        try: parts[i] = change_json(parts[i], rng) if i==0 else b',' + change_json(b'{'+parts[i][1:], rng)[1:]
        except Exception: pass # no longer JSON
    else: parts[i] = atheris.Mutate(parts[i], max(most-len(given)+len(parts[i]), 1))
    return (kind + SPLIT.join(parts))[:most]

def reader(given):
    whole = assemble(given)
    FILE.write_bytes(whole)
    before,refused = peak(),None
    try: tensors,plain = files.load_tensors(FILE)
    except files.CheckpointError as e: refused = f'refused: {type(e.__cause__).__name__ if e.__cause__ else "damaged"}'
    assert peak()<=before+3*len(whole)+SPARE, f'{len(whole):,} bytes took {peak()-before:,}'
    if refused: return refused
    try: state = files.unflatten(tensors, plain)
    except files.CheckpointError: return 'read, plain values refused'
    try: tensors,plain = files.flatten(state)
    except RecursionError: return 'nested too deeply'
    assert repr(files.flatten(files.unflatten(tensors, plain)))==repr((tensors, plain))
    return 'read, and the same once more'

# An IDX file, gzipped or not

def idx_seeds():
    for code,dtype in data._idx_types.items():
        yield b'\x00' + bytes([0, 0, code, 2, 0, 0, 0, 2, 0, 0, 0, 3]) + numpy.arange(6).astype(dtype).tobytes()
    yield b'\x01' + bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2])
    yield b'\x00' + gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2]), mtime=0)

def completed(whole):
    "As long as the sizes in its header say, if that isn't long."
    if len(whole)<4: return whole
    end = 4+4*whole[3]
    sizes = struct.unpack(f'>{whole[3]}I', whole[4:end]) if len(whole)>=end else ()
    n = math.prod(sizes)*numpy.dtype(data._idx_types.get(whole[2], 'u1')).itemsize
    return whole[:end] + whole[end:end+n].ljust(n, b'x') if n<2**20 else whole

def idx(given):
    kind,whole = given[0]%4 if given else 0,given[1:]
    if kind>1: whole = completed(whole)
    FILE.write_bytes(gzip.compress(whole, 1, mtime=0) if kind%2 else whole)
    before,what = peak(),'read'
    try: data.load_idx(FILE)
    except ValueError: what = 'refused'
    assert peak()<=before+3*len(whole)+SPARE, f'{len(whole):,} bytes took {peak()-before:,}'
    return what

# Schedules: shares, shapes and their settings

SHAPES = anneal.sched_no,anneal.sched_lin,anneal.sched_cos,anneal.sched_exp,anneal.sched_poly
ODD    = 0,1,-1,True,None,'x',10**300,[0.5],1j

def scheds_seeds():
    for n in (1, 2, 3): yield bytes(range(16))*n

def scheds(given):
    fdp = atheris.FuzzedDataProvider(given)
    def number():
        how = fdp.ConsumeIntInRange(0, 9)
        if how==0: return fdp.PickValueInList([*ODD])
        return fdp.ConsumeFloat() if how==1 else fdp.ConsumeFloatInRange(1e-3, 1e3)
    try:
        n = fdp.ConsumeIntInRange(0, 4)
        parts = []
        for _ in range(n):
            shape = fdp.PickValueInList([*SHAPES])
            parts.append(shape(*(number() for _ in range(3 if shape is anneal.sched_poly else 2))))
        equal = n and fdp.ConsumeBool()
        pcts  = [1/n]*n if equal else [number() for _ in range(fdp.ConsumeIntInRange(0, 4))]
        sched = anneal.combine_scheds(pcts, parts)
    except (TypeError, ValueError): return 'refused'
    for pos in (0., 1., *(fdp.ConsumeProbability() for _ in range(3))): sched(pos)
    repr(sched)
    return 'called'

# What runs them

TARGETS = dict(reader=(reader, reader_seeds, change), idx=(idx, idx_seeds, None),
               scheds=(scheds, scheds_seeds, None))
WORDS = r'''["tensor"] ["tensor","a"] ["array"] ["list", ["tuple", ["dict",[ ["OrderedDict",[ ["Counter",[ null
    ["int","0x"] ["float","nan"] ["long\x20list"] ["long\x20tuple"] {} [] : ,
    "a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]} "dtype":"BF16" "dtype":"C64" "F8_E4M3" "F4" "BOOL" "U64"
    "I64" "shape":[] "shape":[0] "__metadata__":{} 1e999 -0.0 "data_offsets":[0,0] 9223372036854775808
    18446744073709551615 \\ud800 \\u0000 true NaN Infinity'''

def main(name, runs, *options):
    target,seeds,mutator = TARGETS[name]
    corpus = FOLDER/'corpus'
    corpus.mkdir()
    for i,seed in enumerate(seeds()): (corpus/f'{i}').write_bytes(seed)
    quoted = [word.replace('"', '\\"') for word in WORDS.split()]
    (FOLDER/'words').write_text(''.join(f'"{word}"\n' for word in quoted))
    limits = [f'-dict={FOLDER/"words"}', '-max_len=4096', '-timeout=10', '-rss_limit_mb=4096', '-verbosity=0']
    inputs = [option for option in options if not option.startswith('-')] # files to run again
    start,first = time.monotonic(),peak()

    def one(given):
        seen[target(given)] += 1
        n = seen.total()
        if n%100_000==0 or n==int(runs):
            parts = ', '.join(f'{count:,} {what}' for what,count in sorted(seen.items()))
            print(f'{name}: {n:,} inputs, {n/(time.monotonic()-start):,.0f} a second: {parts}; '
                  f'{(peak()-first)/2**20:.0f} MB more than at the start', flush=True)
    places = [] if inputs else [f'-runs={runs}', str(corpus)]
    atheris.Setup([sys.argv[0], *limits, *options, *places], one, custom_mutator=mutator)
    atheris.Fuzz()

if __name__ == '__main__':
    if len(sys.argv)<3 or sys.argv[1] not in TARGETS: sys.exit(__doc__)
    main(*sys.argv[1:])
