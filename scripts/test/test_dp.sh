#!/usr/bin/env bash
# Data-parallel evaluation: several processes of test.py, each with its own model and GPU, share the samples; then all are scored.
#   bash scripts/test/test_dp.sh [--gpus N] [TEST.PY FLAGS]
#   --gpus N   number of processes (all visible GPUs; without GPUs, N processes on the CPU)
#   --dry_run  print the command, and the files that are missing
# --resume continues an interrupted run. For a model larger than one GPU add --tensor_parallel_size M and set --gpus to the
# number of replicas. For a cluster see scripts/slurm/test_array.slurm.
exec bash "$(dirname "${BASH_SOURCE[0]}")/over_gpus.sh" "${BASH_SOURCE[0]}" --data_parallel_size "$@"
