#!/usr/bin/env bash
# Data parallel evaluation: processes of test.py, each with a model and a GPU of its own, share the samples; then the score.
#   bash scripts/test/test_dp.sh [--gpus N] TEST.PY'S FLAGS
#   --gpus N   processes (one for every visible GPU; without GPUs N processes on the CPU)
# With --resume it goes on where it was. Replicas of models larger than one GPU: add --tensor_parallel_size M to the flags, and
# say --gpus N for the number of replicas. For a cluster: scripts/slurm/test_array.slurm.
exec bash "$(dirname "${BASH_SOURCE[0]}")/over_gpus.sh" "${BASH_SOURCE[0]}" --data_parallel_size "$@"
