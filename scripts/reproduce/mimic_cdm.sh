#!/usr/bin/env bash
# MIMIC-IV-Ext-CDM: each model names which of four abdominal pathologies a patient has, and the coded diagnoses.
#   bash scripts/reproduce/mimic_cdm.sh --cdm_dir DIR [FLAGS] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL               as for main_table.sh
#   --cdm_dir DIR       the dataset as downloaded (docs/external.md)
#   --output_path DIR   directory with the samples, and one subdirectory per model (./results/cdm)
#   --dataset_name F    samples of evaluation/external/cdm.py with other flags, instead of --cdm_dir
# Flags after -- are passed to test.py. After an interruption, run the same command again to resume.
# Data:     MIMIC-IV-Ext-CDM (PhysioNet, credentialed).
# Weights and GPUs: as for main_table.sh.
# Time:     not measured. Two samples per admission and model, with generated answers.
# Prints:   accuracy of the pathology and F1 of the diagnoses with 95 % intervals. The published values are not available here.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options+=([output_path]=./results/cdm [cdm_dir]="")
parse_flags "$@"
expect_models
rows=$dataset
if [ -n "$rows" ]; then
  expect_files "$rows" "Make it with evaluation/external/cdm.py."
  open_results
else
  [ -d "${options[cdm_dir]}" ] || fail "--cdm_dir: expected the dataset as downloaded, got no such directory. See --help."
  open_results
  rows="$results/cdm.jsonl"
  convert "$rows" evaluation.external.cdm --cdm_dir "$(cd "${options[cdm_dir]}" && pwd)"
fi
for model in "${models[@]}"; do evaluate_paper "$(basename "$model")" "$model" "$rows"; done
finish cdm
