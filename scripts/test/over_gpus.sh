#!/usr/bin/env bash
# What the launchers share: over_gpus.sh LAUNCHER FLAG [--gpus N] TEST.PY'S FLAGS runs test.py with FLAG set to N.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python="$repo/.venv/bin/python"; [ -x "$python" ] || python=python
launcher=$1 flag=$2
shift 2

fail() { echo "$(basename "$launcher"): $*" >&2; exit 2; }

case "${1:-}" in
  ""|-h|--help) grep '^# ' "$launcher" | sed 's/^# //'; exit 0 ;;
  --gpus) [ $# -gt 1 ] || fail "--gpus: wanted a number after it"; gpus=$2; shift 2 ;;
  *)
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
      gpus=$(tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | wc -l)
    else
      gpus=$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)
    fi ;;
esac
[[ "$gpus" =~ ^[0-9]+$ ]] || fail "--gpus $gpus: wanted a number"
[ "$gpus" -ge 1 ] || fail "wanted a visible GPU, found none; without one run test.py itself"
case "$flag" in --data_parallel_size) vllm=() ;; *) vllm=(--use_vllm) ;; esac  # replicas may be of any backend
exec "$python" "$repo/test.py" "${vllm[@]}" "$flag" "$gpus" "$@"
