#!/usr/bin/env bash
# The paper's main figure: macro F1 and macro AUROC of models on EHR-Bench with 95 % intervals, and the published ones.
#   bash scripts/reproduce/main_figure.sh [FLAGS] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL               as for main_table.sh
#   --root_dir DIR      data directory that contains ehr_bench/ (./datas)
#   --output_path DIR   directory of main_table.sh, whose finished runs are used (./results/table)
#   --dataset_name F,F  EHR-Bench as CSV or JSONL, instead of ROOT_DIR/ehr_bench/
# Flags after -- are passed to test.py. After an interruption, run the same command again to resume.
# Data, weights, GPUs and time: as for main_table.sh; a minute for models that main_table.sh has finished (an estimate).
# Prints:   the table of main_table.sh, and the paths of the figure (report.png) and of the page with it (report.html), in the
#           directory of the first model. Both have the published values of all models of the paper,
#           if a model has a value for all 24 decision-making or 18 risk prediction tasks.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options[output_path]=./results/table
parse_flags "$@"
evaluate_main_table
if [ ${#runs[@]} -gt 0 ]; then (cd "$repo" && "$python" -m evaluation.report "${runs[@]}" --png); fi
finish main
