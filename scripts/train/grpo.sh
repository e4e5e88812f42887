#!/usr/bin/env bash
# Stage 3, GRPO, on one node.
#   bash scripts/train/grpo.sh [RECIPE_FOLDER] [FLAGS OF GRPO.PY]
#   RECIPE_FOLDER   a folder of scripts/recipes/ (Qwen3-1.7B); flags after it override the recipe
#   ACCELERATE_CONFIG=FILE, NUM_PROCESSES=N in the environment: how to launch (deepspeed_zero3.yaml, all visible GPUs)
# Run the same command again to go on after an interruption.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" "${BASH_SOURCE[0]}" grpo.py grpo "$@"
