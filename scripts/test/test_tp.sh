#!/usr/bin/env bash
# Tensor parallel evaluation with vLLM: one model over several GPUs, every layer is spread over all of them.
#   bash scripts/test/test_tp.sh [--gpus N] TEST.PY'S FLAGS
#   --gpus N   GPUs (all visible)
exec bash "$(dirname "${BASH_SOURCE[0]}")/over_gpus.sh" "${BASH_SOURCE[0]}" --tensor_parallel_size "$@"
