#!/usr/bin/env bash
# The paper's main table: each model on EHR-Bench in the paper's setting, beside the published macro F1 and macro AUROC.
#   bash scripts/reproduce/main_table.sh [FLAGS] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL               Hub id, local directory, or short name in models.yaml. EHR-R1 and models trained here reason and are
#                       not given candidates (--think_prompt); others are given candidates and answer rules (--prompt).
#   --root_dir DIR      data directory that contains ehr_bench/ (./datas)
#   --output_path DIR   directory with one subdirectory per model (./results/table)
#   --dataset_name F,F  EHR-Bench as CSV or JSONL, instead of ROOT_DIR/ehr_bench/
# Flags after -- are passed to test.py: --use_vllm, --instructions their.json for a released checkpoint, --limit 50 for a quick
# test. After an interruption, run the same command again to resume.
# Data:     EHR-Bench of scripts/build_datasets.sh or of a release (README.md), trajectories and candidates.
# Weights:  those of the models. Hosted ones (GPT-4o) and served ones need --url after --.
# GPUs:     an estimate from the size of the weights: one with 24 GB for 8B, four with 80 GB for 72B (--use_vllm).
# Time:     not measured. 500 samples per task: about 12,000 decision and 9,000 risk samples per model.
# Prints:   decision F1 and risk AUROC of each model with 95 % intervals, the published values and the differences.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options[output_path]=./results/table
parse_flags "$@"
evaluate_main_table
finish main
