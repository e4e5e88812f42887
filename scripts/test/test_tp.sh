#!/usr/bin/env bash
# Tensor-parallel evaluation with vLLM: one model on several GPUs, each of which holds a part of every layer.
#   bash scripts/test/test_tp.sh [--gpus N] [TEST.PY FLAGS]
#   --gpus N   number of GPUs (all visible)
#   --dry_run  print the command, and the files that are missing
exec bash "$(dirname "${BASH_SOURCE[0]}")/over_gpus.sh" "${BASH_SOURCE[0]}" --tensor_parallel_size "$@"
