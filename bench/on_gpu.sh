#!/usr/bin/env bash
# All that needs a GPU, on a machine that has one but needn't have nbdev, Jupyter or a network:
#   bash bench/on_gpu.sh OUT [WHEELS]             results and log into OUT; packages missing there from the folder WHEELS
#   DEVICE=cpu bash bench/on_gpu.sh OUT           a try on the processor, with little data
# Needs Python 3.11 or newer, torch, matplotlib, tqdm, pytest; and fastcore, torcheval, safetensors (there, or in WHEELS).
set -u -o pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "$1"); WHEELS=${2:-}; DEVICE=${DEVICE:-cuda}
mkdir -p "$OUT"
export DEVICE PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 MPLBACKEND=agg
if [ -n "$WHEELS" ]; then
    PYTHONPATH=$(mktemp -d); export PYTHONPATH
    python3 -m pip install -q --no-index --no-deps --no-compile --target "$PYTHONPATH" "$WHEELS"/*.whl || exit 1
fi
export PYTHONPATH="$PWD:${PYTHONPATH:-}"
gpu=(--device "$DEVICE"); notebooks=(); [ "$DEVICE" = cuda ] || gpu+=(--rounds 1 --images 640 --runs 1 --best-runs 1 --best-epochs 1 --workloads mlp784-bs64)
[ "$DEVICE" = cuda ] || notebooks=(nbs/1[0-2]_*.ipynb)
failed=0
part() { echo "== $1: $(date +%T)"; shift; "$@" || { failed=1; echo "== failed: $*"; }; }
{
    part versions python3 -c 'import sys, torch; print(sys.version, torch.__version__, torch.version.cuda); torch.cuda.is_available() and print(torch.cuda.get_device_name())'
    part notebooks python3 bench/cells.py "$OUT" --device "$DEVICE" ${CELLS_ARGS:-} ${notebooks[@]+"${notebooks[@]}"}
    part callbacks python3 -m pytest -q -p no:cacheprovider tests/test_device.py
    part processes python3 -m pytest -q -rs -p no:cacheprovider tests/test_gpu_ranks.py
    part benchmarks python3 bench/gpu.py "${gpu[@]}" ${GPU_ARGS:-} --out "$OUT/gpu.json"
    echo "== done: $(date +%T)"
} 2>&1 | tee "$OUT/log.txt"
grep -q '^== failed' "$OUT/log.txt" && exit 1 || exit 0
