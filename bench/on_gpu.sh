#!/usr/bin/env bash
# All that needs a GPU, in one go, on a machine that has one but needn't have nbdev, Jupyter or a network:
#   bash bench/on_gpu.sh OUT [WHEELS]        results and log into OUT; packages missing there from the folder WHEELS
#   MINUTES=20 bash bench/on_gpu.sh OUT      with more time than 8 minutes
#   DEVICE=cpu bash bench/on_gpu.sh OUT      a try on the processor, with little data
# Needs Python 3.11 or newer, torch, matplotlib, tqdm; and fastcore, torcheval, safetensors, pytest, there or in WHEELS.
# Each part writes its results as it goes, has a limit, and may use what those before it have left. What had no time is
# in the log: "left out", or "cut off". The parts that time something run alone.
set -u -o pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "$1"); WHEELS=${2:-}; DEVICE=${DEVICE:-cuda}; MINUTES=${MINUTES:-8}
SECONDS=0; END=$((MINUTES*60 - 10))
mkdir -p "$OUT"; rm -f "$OUT"/{gpu,cells}.json
export DEVICE PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=agg
if [ -n "$WHEELS" ]; then
    PYTHONPATH=$(mktemp -d); export PYTHONPATH
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$PYTHONPATH" "$WHEELS"/*.whl || exit 1
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}"
gpu=(bench/gpu.py --device "$DEVICE" --out "$OUT/gpu.json" ${GPU_ARGS:-})
[ "$DEVICE" = cuda ] || gpu+=(--rounds 1 --images 640 --runs 1 --epochs 1 --workloads mlp784-bs64)
cells=(bench/cells.py "$OUT" --device "$DEVICE" ${CELLS_ARGS:-}); tests=(-m pytest -q -rs -p no:cacheprovider)

limit() { local left=$((END-SECONDS)) own=$(($1*MINUTES/8)); echo $((own<left ? own : left)); } # of 480 seconds in all
# part NAME SECONDS ARGUMENTS OF PYTHON: {} in them becomes the seconds after which nothing more should begin
part() {
    local name=$1 seconds started=$SECONDS code; seconds=$(limit "$2"); shift 2
    if [ "$seconds" -lt 10 ]; then echo "== left out, no time: $name"; return; fi
    echo "== $name: $(date +%T), at most $seconds s"
    timeout -k 5 "$seconds" python3 "${@/\{\}/$((seconds-5))}" 2>&1 | sed -u "s/^/$name| /"
    code=$?
    case $code in 0) ;; 124|137) echo "== cut off: $name";; *) echo "== failed: $name";; esac
    echo "== $name: $((SECONDS-started)) s"
}
versions='import sys, torch
print(sys.version, torch.__version__, torch.version.cuda)
if torch.cuda.is_available(): print(torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory)'
{
    part versions 40 -c "$versions"
    part cuda-cells 150 "${cells[@]}" --only cuda --seconds {} &
    part callbacks 150 "${tests[@]}" tests/test_device.py &
    part processes 150 "${tests[@]}" tests/test_gpu_ranks.py &
    wait
    part ways 170 "${gpu[@]}" --parts ways --seconds {}
    part times 110 "${gpu[@]}" --parts times --seconds {}
    part loaders 40 "${gpu[@]}" --parts loaders --seconds {}
    part cells 480 "${cells[@]}" --only rest --seconds {}
    echo "== done: $(date +%T), $SECONDS s"
} 2>&1 | tee "$OUT/log.txt"
! grep -q '^== failed' "$OUT/log.txt"
