# Sourced by the scripts of this directory. Each declares its flags with their defaults in `options`, calls `parse_flags "$@"`,
# runs models with `evaluate`, each in a subdirectory of --output_path, and ends with `finish`.
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

declare -A options=([root_dir]=./datas [output_path]="" [dataset_name]="")
models=() flags=() runs=() failed=()

# print_header: print the comment at the top of the script.
print_header() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"; }

# parse_flags ARGUMENTS...: set `options`, `models`, and `flags`, those of test.py after --.
parse_flags() {
  local flag
  while [ $# -gt 0 ]; do
    flag=${1%%=*}
    case $1 in
      -h|--help) print_header; exit 0 ;;
      --) shift; flags=("$@"); break ;;
      --dry_run) [[ -v "options[dry_run]" ]] || fail "unknown flag --dry_run. See --help."; options[dry_run]=yes; shift ;;
      --*)
        [[ -v "options[${flag#--}]" ]] || fail "unknown flag $flag. See --help. Flags of test.py go after --."
        if [ "$flag" = "$1" ]; then
          [ $# -gt 1 ] || fail "$flag: expected a value, got none."
          shift
        fi
        options[${flag#--}]=${1#"$flag"=}; shift ;;
      -*) fail "unknown flag $1. See --help. Flags of test.py go after --." ;;
      *) models+=("$1"); shift ;;
    esac
  done
  root=${options[root_dir]} results=${options[output_path]} dataset=${options[dataset_name]}
}

# expect_models: check that there are models, and that their names differ, as they name the directories of their results.
expect_models() {
  [ ${#models[@]} -gt 0 ] || fail "expected a model, got none. See --help."
  local same
  same=$(for model in "${models[@]}"; do basename "$model"; done | sort | uniq -d | head -n 1)
  [ -z "$same" ] || fail "$same: expected models whose last names differ, got several of this one. Run each with its own --output_path."
}

# expect_files FILE,FILE... FIX: check that the files of a dataset exist.
expect_files() {
  local file files
  IFS=, read -ra files <<< "$1"
  for file in "${files[@]}"; do [ -e "$file" ] || fail "$file: expected a file, got none. $2"; done
}

# expect_bench: set `dataset` to EHR-Bench, unless --dataset_name is given, and check that it exists.
expect_bench() {
  : "${dataset:=$root/ehr_bench/ehr_bench_decision_making.csv,$root/ehr_bench/ehr_bench_risk_prediction.csv}"
  expect_files "$dataset" "Make EHR-Bench with scripts/build_datasets.sh, or pass its files with --dataset_name."
}

# open_results: create the directory of the results.
open_results() { make_directory "$results"; results=$(cd "$results" && pwd); }

# is_ehr_r1 MODEL: whether a model is trained to answer without candidates: EHR-R1, or a model that was trained here.
is_ehr_r1() { [[ ${1,,} == *ehr-r1* ]] || [ -f "$1/ehr_training.json" ]; }

# evaluate NAME MODEL DATASET FLAGS...: run test.py. If it fails, the other runs are done, and `finish` reports it.
evaluate() {
  local name=$1 model=$2 rows=$3 code=0
  shift 3
  echo; echo "== $name: $model $*"
  "$python" "$repo/test.py" --root_dir "$root" --dataset_name "$rows" --model_name_or_path "$model" \
    --output_path "$results/$name" --resume "$@" "${flags[@]}" || code=$?
  case $code in 0) runs+=("$results/$name") ;; 130) exit 130 ;; *) failed+=("$name") ;; esac
}

# evaluate_paper NAME MODEL DATASET: `evaluate` in the setting of the paper's main table.
evaluate_paper() { if is_ehr_r1 "$2"; then evaluate "$@" --think_prompt; else evaluate "$@" --prompt; fi; }

# evaluate_main_table: run all models on EHR-Bench in the setting of the paper's main table.
evaluate_main_table() {
  expect_models
  expect_bench
  open_results
  local model
  for model in "${models[@]}"; do evaluate_paper "$(basename "$model")" "$model" "$dataset"; done
}

# convert FILE COMMAND...: make the rows of another benchmark, unless they exist.
convert() {
  local rows=$1
  shift
  if [ -e "$rows" ]; then echo "$rows: exists. Remove it to make it again."; return; fi
  (cd "$repo" && "$python" -m "$@" --output_path "$rows")
}

# ehrshot_rows SHOTS: set `rows` to the samples of EHRSHOT, unless --dataset_name is given.
ehrshot_rows() {
  rows=$dataset
  if [ -n "$rows" ]; then expect_files "$rows" "Make it with evaluation/external/ehrshot.py."; return; fi
  local assets=${options[ehrshot_dir]} samples=${options[samples]}
  [ -d "$assets" ] || fail "--ehrshot_dir: expected EHRSHOT_ASSETS, as downloaded, got no such directory. See --help."
  assets=$(cd "$assets" && pwd)
  rows="$results/ehrshot-$1-shot${samples:+-$samples-samples}.jsonl"
  convert "$rows" evaluation.external.ehrshot --ehrshot_dir "$assets" --shots "$1" ${samples:+--samples "$samples"}
}

# finish EXPERIMENT: print the results beside the published ones; exit with 2 if a run failed.
finish() {
  echo
  if [ ${#runs[@]} -gt 0 ]; then (cd "$repo" && "$python" -m evaluation.published --experiment "$1" "${runs[@]}"); fi
  [ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}. See the errors above, and run the same command again to resume."
}
