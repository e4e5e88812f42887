#!/usr/bin/env bash
# Shared by the launchers of evaluation: over_gpus.sh LAUNCHER FLAG [--gpus N] [TEST.PY FLAGS] runs test.py with FLAG set to N.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python="$repo/.venv/bin/python"; [ -x "$python" ] || python=python
launcher=$1 flag=$2
shift 2

fail() { echo "$(basename "$launcher"): $*" >&2; exit 2; }

case "${1:-}" in
  ""|-h|--help) grep '^# ' "$launcher" | sed 's/^# //'; exit 0 ;;
  --gpus) [ $# -gt 1 ] || fail "--gpus: expected a number, got none."; gpus=$2; shift 2 ;;
  *)
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
      gpus=$(tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | wc -l)
    else
      gpus=$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)
    fi ;;
esac
[[ "$gpus" =~ ^[0-9]+$ ]] || fail "--gpus: expected a number, got $gpus."
[ "$gpus" -ge 1 ] || fail "expected a visible GPU, got none. Run test.py itself on the CPU."
case "$flag" in --data_parallel_size) vllm=() ;; *) vllm=(--use_vllm) ;; esac  # replicas work with any backend
exec "$python" "$repo/test.py" "${vllm[@]}" "$flag" "$gpus" "$@"
