#!/usr/bin/env bash
# Samples the training and benchmark sets of the release (ehr_ins/, ehr_bench/) from your own task index.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: build_datasets.sh [--root_dir DIR] [--scale F] [--seed N] [-- FLAGS...]

Reads   DIR/task_index/all, DIR/patient_data/{train,test}.csv
Writes  DIR/ehr_bench/ehr_bench_decision_making.csv   500 rows per task, test patients
        DIR/ehr_bench/ehr_bench_risk_prediction.csv   500 rows per task, as many yes as no
        DIR/ehr_ins/ehr_ins.csv                       up to the counts of ehr_ins.json, training patients
        DIR/ehr_ins/ehr_ins_reasoning.csv             0.2 × the counts, decision tasks, weighted towards rare answers
        DIR/ehr_ins/ehr_ins_rl.csv                    0.05 × the counts, as many yes as no, disjoint from the reasoning rows

--root_dir  data directory (./datas)
--scale F   multiplies every count, 0 < F ≤ 1 (1)
--seed N    seed of the draws (42)
FLAGS       are passed to every data_index_gen.py, such as --min_window 5 or --exclude_audit outcome_in_window
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

root=./datas scale=1 seed=42 more=()
while [ $# -gt 0 ]; do
  case $1 in
    -h|--help) usage; exit 0 ;;
    --root_dir|--scale|--seed)
      [ $# -gt 1 ] || fail "$1: expected a value, got none."
      case $1 in --root_dir) root=$2 ;; --scale) scale=$2 ;; --seed) seed=$2 ;; esac
      shift 2 ;;
    --root_dir=*) root=${1#*=}; shift ;;
    --scale=*) scale=${1#*=}; shift ;;
    --seed=*) seed=${1#*=}; shift ;;
    --) shift; more=("$@"); break ;;
    *) fail "unknown argument $1. See --help." ;;
  esac
done
awk -v f="$scale" 'BEGIN { exit !(f ~ /^[0-9]*\.?[0-9]+([eE]-?[0-9]+)?$/ && f > 0 && f <= 1) }' \
  || fail "--scale $scale: expected a number with 0 < F ≤ 1."

configs="$repo/scripts/data_configs"
for path in "$root/task_index/all" "$root/patient_data/train.csv" "$root/patient_data/test.csv"; do
  [ -e "$path" ] || fail "$path: no such file or directory. Make it with preprocess/split_patients.py and mimiciv_dataset/task_sample_info_gen.py."
done

times() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.10g", a * b }'; }

# sample SPLIT CONFIG SHARE OUTPUT FLAGS...: one set, SHARE × --scale of the config's counts.
sample() {
  local split=$1 config=$2 share output=$4
  share=$(times "$3" "$scale")
  shift 4
  # data_index_gen.py reads 1 as a number of rows, not as a share: leave the flag out to keep the counts of the config.
  if [ "$share" != 1 ]; then set -- --force_task_num "$share" "$@"; fi
  echo; echo "== $output"
  "$python" "$repo/mimiciv_dataset/data_index_gen.py" --root_dir "$root" --data_index_dir "$root/task_index/all" \
    --subject_id_path "$root/patient_data/$split.csv" --data_config "$configs/$config.json" --seed "$seed" \
    --output_path "$root/$output" "$@" ${more[@]+"${more[@]}"}
}

sample test ehr_bench_decision_making 1 ehr_bench/ehr_bench_decision_making.csv
sample test ehr_bench_risk_prediction 1 ehr_bench/ehr_bench_risk_prediction.csv --balance_force
sample train ehr_ins 1 ehr_ins/ehr_ins.csv
sample train ehr_ins 0.2 ehr_ins/ehr_ins_reasoning.csv --kind decision --balance_sample
sample train ehr_ins 0.05 ehr_ins/ehr_ins_rl.csv --balance_force \
  --out_data_index_dir "$root/ehr_ins/ehr_ins_reasoning.csv"
