#!/usr/bin/env bash
# Shared by the launchers of evaluation: over_gpus.sh LAUNCHER FLAG [--gpus N] [TEST.PY FLAGS] runs test.py with FLAG set to N.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
launcher=$1 flag=$2 name=$(basename "$1")
shift 2

case "${1:-}" in
  ""|-h|--help) grep '^# ' "$launcher" | sed 's/^# //'; exit 0 ;;
  --gpus) [ $# -gt 1 ] || fail "$name, --gpus: expected a number, got none."; gpus=$2; shift 2 ;;
  *) gpus=$(visible_gpus) ;;
esac
[[ "$gpus" =~ ^[0-9]+$ ]] || fail "$name, --gpus: expected a number, got $gpus."
if dry_run "$@" && [ "$gpus" = 0 ]; then gpus=8; fi  # as on a machine with GPUs
[ "$gpus" -ge 1 ] || fail "$name: expected a visible GPU, got none. Run test.py itself on the CPU."
case "$flag" in --data_parallel_size) vllm=() ;; *) vllm=(--use_vllm) ;; esac  # replicas work with any backend
start "$python" "$repo/test.py" "${vllm[@]}" "$flag" "$gpus" "$@"
