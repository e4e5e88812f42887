#!/usr/bin/env bash
# Stage 3, GRPO, on one node.
#   bash scripts/train/grpo.sh [RECIPE_DIR] [GRPO.PY FLAGS]
#   RECIPE_DIR   a directory of recipes, such as those in scripts/recipes/ (Qwen3-1.7B); flags override the recipe
# Environment: ACCELERATE_CONFIG=FILE (scripts/accelerate_configs/deepspeed_zero3.yaml), NUM_PROCESSES=N (all visible GPUs).
# --dry_run prints the command and the files that are missing. The same command resumes an interrupted run.
exec bash "$(dirname "${BASH_SOURCE[0]}")/launch.sh" "${BASH_SOURCE[0]}" grpo.py grpo "$@"
