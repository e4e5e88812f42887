#!/usr/bin/env bash
# EHRSHOT, zero-shot: each model answers the 14 yes/no tasks of the benchmark without training on it.
#   bash scripts/reproduce/ehrshot_zero_shot.sh --ehrshot_dir EHRSHOT_ASSETS [FLAGS] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL               as for main_table.sh
#   --ehrshot_dir DIR   the benchmark as downloaded, with the OMOP concept table (docs/external.md)
#   --samples N         draw N labels per task (500); an empty value takes all
#   --output_path DIR   directory with the samples, and MODEL-0-shot/ for each model (./results/ehrshot)
#   --dataset_name F    samples of evaluation/external/ehrshot.py with other flags, instead of --ehrshot_dir
# Flags after -- are passed to test.py. After an interruption, run the same command again to resume.
# Data:     EHRSHOT (Stanford, under its own data use agreement).
# Weights and GPUs: as for main_table.sh.
# Time:     not measured. One forward pass for each of at most 7,000 samples per model.
# Prints:   the mean AUROC over the tasks with its 95 % interval. The published values are not available here.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options+=([output_path]=./results/ehrshot [ehrshot_dir]="" [samples]=500)
parse_flags "$@"
expect_models
open_results
ehrshot_rows 0
for model in "${models[@]}"; do evaluate_paper "$(basename "$model")-0-shot" "$model" "$rows"; done
finish ehrshot
