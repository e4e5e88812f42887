#!/usr/bin/env bash
# The paper's main table on your machine: each model over EHR-Bench in the paper's setting, then ours beside the published figures.
#   bash scripts/reproduce_table.sh [--root_dir DIR] [--output_path DIR] MODEL [MODEL …] [-- FLAGS OF TEST.PY]
#   MODEL              Hub id, local folder or short name of models.yaml. Models named EHR-R1 reason and get no candidates
#                      (--think_prompt); the others are given candidates and answer rules (--prompt).
#   --root_dir DIR     data, with ehr_bench/ in it (./datas)
#   --output_path DIR  a folder for each model goes here (./results/table)
# Flags after -- go to test.py: --use_vllm, --instructions their.json for a released checkpoint, --limit 50 for a try. What is
# done is not done again: run the same command to go on.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$repo/.venv/bin/python"; [ -x "$python" ] || python=python

fail() { echo "reproduce_table.sh: $*" >&2; exit 2; }

root=./datas results=./results/table models=() flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    --root_dir) [ $# -gt 1 ] || fail "--root_dir: wanted a folder after it"; root=$2; shift 2 ;;
    --output_path) [ $# -gt 1 ] || fail "--output_path: wanted a folder after it"; results=$2; shift 2 ;;
    -h|--help) grep '^# ' "${BASH_SOURCE[0]}" | sed 's/^# //'; exit 0 ;;
    --) shift; flags=("$@"); break ;;
    -*) fail "unknown flag $1; test.py's flags go after --" ;;
    *) models+=("$1"); shift ;;
  esac
done
[ ${#models[@]} -gt 0 ] || fail "wanted a model, found none (--help)"

mkdir -p "$results"
results=$(cd "$results" && pwd)
bench="$root/ehr_bench/ehr_bench_decision_making.csv,$root/ehr_bench/ehr_bench_risk_prediction.csv"
folders=() failed=()
for model in "${models[@]}"; do
  name=$(basename "$model")
  case "${model,,}" in *ehr-r1*) setting=(--think_prompt) ;; *) setting=(--prompt) ;; esac
  echo "reproduce_table.sh: $model ${setting[*]} → $results/$name"
  if "$python" "$repo/test.py" --root_dir "$root" --dataset_name "$bench" --model_name_or_path "$model" \
      --output_path "$results/$name" --resume "${setting[@]}" "${flags[@]}"; then
    folders+=("$results/$name")
  else
    failed+=("$model")
  fi
done
if [ ${#folders[@]} -gt 0 ]; then (cd "$repo" && "$python" -m evaluation.published "${folders[@]}"); fi
[ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}; see above, and run the same command to go on"
