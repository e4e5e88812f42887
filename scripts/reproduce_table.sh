#!/usr/bin/env bash
# The paper's main table: runs each model on EHR-Bench in the paper's setting and compares with the published values.
#   bash scripts/reproduce_table.sh [--root_dir DIR] [--output_path DIR] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL              Hub id, local directory, or short name in models.yaml. Models named EHR-R1 reason and are not given
#                      candidates (--think_prompt); others are given candidates and answer rules (--prompt).
#   --root_dir DIR     data directory that contains ehr_bench/ (./datas)
#   --output_path DIR  directory with one subdirectory per model (./results/table)
# Flags after -- are passed to test.py: --use_vllm, --instructions their.json for a released checkpoint, --limit 50 for a quick
# test. After an interruption, run the same command again to resume.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

root=./datas results=./results/table models=() flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    --root_dir) [ $# -gt 1 ] || fail "--root_dir: expected a directory, got nothing."; root=$2; shift 2 ;;
    --output_path) [ $# -gt 1 ] || fail "--output_path: expected a directory, got nothing."; results=$2; shift 2 ;;
    -h|--help) grep '^# ' "${BASH_SOURCE[0]}" | sed 's/^# //'; exit 0 ;;
    --) shift; flags=("$@"); break ;;
    -*) fail "unknown flag $1. Flags of test.py go after --." ;;
    *) models+=("$1"); shift ;;
  esac
done
[ ${#models[@]} -gt 0 ] || fail "expected a model, got none. See --help."

make_directory "$results"
results=$(cd "$results" && pwd)
bench="$root/ehr_bench/ehr_bench_decision_making.csv,$root/ehr_bench/ehr_bench_risk_prediction.csv"
folders=() failed=()
for model in "${models[@]}"; do
  name=$(basename "$model")
  case "${model,,}" in *ehr-r1*) setting=(--think_prompt) ;; *) setting=(--prompt) ;; esac
  echo "reproduce_table.sh: $model ${setting[*]} → $results/$name"
  code=0
  "$python" "$repo/test.py" --root_dir "$root" --dataset_name "$bench" --model_name_or_path "$model" \
    --output_path "$results/$name" --resume "${setting[@]}" "${flags[@]}" || code=$?
  case $code in 0) folders+=("$results/$name") ;; 130) exit 130 ;; *) failed+=("$model") ;; esac
done
if [ ${#folders[@]} -gt 0 ]; then (cd "$repo" && "$python" -m evaluation.published "${folders[@]}"); fi
[ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}. See the errors above, and run the same command again to resume."
