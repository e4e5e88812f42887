#!/usr/bin/env bash
# The whole road on data made on the spot: environment, synthetic MIMIC-IV, trajectories, index, benchmark, a tiny model,
# evaluation, baselines, the report. Each step says what it made. Safe to run again: finished steps are skipped or quick.
#   --root_dir DIR     where everything goes (./datas/quickstart)
#   --mimic_dir DIR    your own MIMIC-IV (hosp/, icu/, ed/, note/) in place of the synthetic one
#   --maps_from DIR    ready CCS and ATC maps for it (docs/data.md)
#   --patients N       synthetic patients (200)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

root=./datas/quickstart mimic="" maps="" patients=200
while [ $# -gt 0 ]; do
  case "$1" in
    --root_dir) root=$2; shift 2 ;;
    --mimic_dir) mimic=$2; shift 2 ;;
    --maps_from) maps=$2; shift 2 ;;
    --patients) patients=$2; shift 2 ;;
    -h|--help) sed -n '2,7p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "quickstart.sh: unknown flag $1 (--help lists them)" >&2; exit 2 ;;
  esac
done

steps=10 number=0
step() { number=$((number + 1)); printf '\n\033[1m[%d/%d] %s\033[0m\n' "$number" "$steps" "$1"; }
look() { printf '      look: %s\n' "$1"; }

step "Environment (.venv)"
bash "$repo/scripts/setup_env.sh"
python="$repo/.venv/bin/python"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
mkdir -p "$root"
root=$(cd "$root" && pwd)

if [ -z "$mimic" ]; then
  step "Synthetic MIMIC-IV: $patients patients, every table, structure to learn from"
  mimic="$root/mimiciv"
  if [ ! -d "$mimic" ]; then
    "$python" "$repo/preprocess/synthetic_mimic.py" --root_dir "$root" --patients "$patients"
  fi
  look "zcat $mimic/hosp/labevents.csv.gz | head"
else
  step "Your MIMIC-IV: $mimic"
  mimic=$(cd "$mimic" && pwd)
fi

step "Trajectories: one time-ordered list of events a patient"
"$python" "$repo/preprocess/merge_patient.py" --root_dir "$root" --mimic_dir "$mimic"
"$python" "$repo/preprocess/rank.py" --root_dir "$root"
"$python" "$repo/preprocess/combination.py" --root_dir "$root"
look "cat $root/patients_ehr/provenance.json"

step "Patient split, dictionaries and code maps"
"$python" "$repo/preprocess/split_patients.py" --root_dir "$root" --ehr_dir "$root/patients_ehr" --test_ratio 0.3
"$python" "$repo/preprocess/build_index_mapping.py" --root_dir "$root" --mimic_dir "$mimic" ${maps:+--maps_from "$maps"}

step "Task index: every sample of all 46 tasks, with labels and leak audit"
"$python" "$repo/mimiciv_dataset/task_sample_info_gen.py" --root_dir "$root"
look "head -3 $root/task_index/all/ED_Hospitalization.csv"

step "Candidate answers, from the training patients"
"$python" "$repo/mimiciv_dataset/similar_item_gen.py" --root_dir "$root"

step "A benchmark sampled from the test patients"
bench="$root/ehr_bench"
for kind in decision_making risk_prediction; do
  balance=""; [ "$kind" = risk_prediction ] && balance=--balance_force
  "$python" "$repo/mimiciv_dataset/data_index_gen.py" --root_dir "$root" --data_index_dir "$root/task_index/all" \
    --subject_id_path "$root/patient_data/test.csv" --data_config "$repo/scripts/data_configs/$kind.json" \
    --output_path "$bench/$kind.csv" --force_task_num 6 $balance
done
"$python" "$repo/mimiciv_dataset/validate_index.py" --root_dir "$root" "$bench/decision_making.csv" "$bench/risk_prediction.csv"

step "A tiny model of Qwen3's shape (untrained)"
model="$root/models/tiny"
if [ ! -d "$model" ]; then
  "$python" "$repo/scripts/make_tiny_model.py" --root_dir "$root" --output_path "$model" \
    --dataset_name "$bench/decision_making.csv" "$bench/risk_prediction.csv" --samples 100
fi

step "Evaluation: answers, p(yes), F1 and AUROC with intervals"
"$python" "$repo/test.py" --root_dir "$root" --model_name_or_path "$model" --output_path "$root/results/tiny" --resume \
  --dataset_name "$bench/decision_making.csv,$bench/risk_prediction.csv" --batch 4 --max_seq_len 3072 --max_new_tokens 32
look "head -1 $root/results/tiny/outputs.jsonl; cat $root/results/tiny/result.json"

step "Baselines to judge it by, and the report: one page with figures, tables and intervals"
(cd "$repo" && "$python" -m evaluation.baselines "$root/results/tiny")
(cd "$repo" && "$python" -m evaluation.report "$root/results/tiny" --markdown)
look "open $root/results/tiny/report.html"

cat <<END

Done. The model above is untrained, so its scores are those of chance.
Now with your MIMIC-IV:

  bash scripts/quickstart.sh --mimic_dir /path/to/mimiciv --root_dir ./datas

or step by step, as the README shows. Everything made here is in $root
The report, for your browser: file://$root/results/tiny/report.html
END
