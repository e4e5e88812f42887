#!/usr/bin/env bash
# Pipeline-parallel evaluation with vLLM: one model on several GPUs, each of which holds some of the layers.
#   bash scripts/test/test_pp.sh [--gpus N] [TEST.PY FLAGS]
#   --gpus N   number of GPUs (all visible)
#   --dry_run  print the command, and the files that are missing
exec bash "$(dirname "${BASH_SOURCE[0]}")/over_gpus.sh" "${BASH_SOURCE[0]}" --pipeline_parallel_size "$@"
