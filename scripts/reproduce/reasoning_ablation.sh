#!/usr/bin/env bash
# Reasoning against none: each model answers EHR-Bench twice, at once (direct) and after a chain of reasoning (reasoning).
#   bash scripts/reproduce/reasoning_ablation.sh [FLAGS] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL               a model that can switch its reasoning off, such as EHR-R1 or Qwen3; candidates as for main_table.sh
#   --root_dir DIR      data directory that contains ehr_bench/ (./datas)
#   --output_path DIR   directory with MODEL-direct/ and MODEL-reasoning/ (./results/reasoning)
#   --dataset_name F,F  EHR-Bench as CSV or JSONL, instead of ROOT_DIR/ehr_bench/
# Flags after -- are passed to test.py. After an interruption, run the same command again to resume.
# Data, weights and GPUs: as for main_table.sh.
# Time:     not measured. Twice the samples of main_table.sh; with reasoning, risk tasks write a chain too.
# Prints:   decision F1 and risk AUROC of both settings. The main table lets models reason in decision tasks only: its values
#           are beside the F1 with reasoning and the AUROC without. Those of the paper's comparison are not available here.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options[output_path]=./results/reasoning
parse_flags "$@"
expect_models
expect_bench
open_results
for model in "${models[@]}"; do
  setting=(--think_prompt)
  is_ehr_r1 "$model" || setting+=(--prompt)
  evaluate "$(basename "$model")-direct" "$model" "$dataset" "${setting[@]}" --direct_answer
  evaluate "$(basename "$model")-reasoning" "$model" "$dataset" "${setting[@]}" --think_risk
done
finish reasoning
