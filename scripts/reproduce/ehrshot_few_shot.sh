#!/usr/bin/env bash
# EHRSHOT, few-shot: as ehrshot_zero_shot.sh, with solved examples of training patients before each question.
#   bash scripts/reproduce/ehrshot_few_shot.sh --ehrshot_dir EHRSHOT_ASSETS [FLAGS] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL               as for main_table.sh
#   --ehrshot_dir DIR   the benchmark as downloaded, with the OMOP concept table (docs/external.md)
#   --shots K,K,…       numbers of examples, yes and no in turn (2,4,8); those of the paper are not available here
#   --samples N         draw N labels per task (500); an empty value takes all
#   --output_path DIR   directory with the samples, and MODEL-K-shot/ for each model (./results/ehrshot)
# Flags after -- are passed to test.py. After an interruption, run the same command again to resume.
# Data:     EHRSHOT (Stanford, under its own data use agreement).
# Weights and GPUs: as for main_table.sh.
# Time:     not measured. One forward pass for each of at most 7,000 samples per model and number of examples.
# Prints:   the mean AUROC over the tasks with its 95 % interval. The published values are not available here.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options+=([output_path]=./results/ehrshot [ehrshot_dir]="" [samples]=500 [shots]=2,4,8)
parse_flags "$@"
expect_models
[ -z "$dataset" ] || fail "--dataset_name: expected --ehrshot_dir, got samples. Use ehrshot_zero_shot.sh for them."
[[ ${options[shots]} =~ ^[0-9]+(,[0-9]+)*$ ]] || fail "--shots: expected comma-separated numbers, got ${options[shots]}."
open_results
for shots in ${options[shots]//,/ }; do
  ehrshot_rows "$shots"
  for model in "${models[@]}"; do evaluate_paper "$(basename "$model")-$shots-shot" "$model" "$rows"; done
done
finish ehrshot
