#!/usr/bin/env bash
# Runs the end-to-end pipeline on synthetic data: environment, synthetic MIMIC-IV, trajectories, task index, benchmark,
# three training stages of a tiny model, evaluation before and after, baselines, report, viewer. Run it again to resume.
#   --root_dir DIR     output directory (./datas/quickstart)
#   --mimic_dir DIR    your own MIMIC-IV (hosp/, icu/, ed/, note/) instead of synthetic data
#   --maps_from DIR    existing CCS and ATC maps for it (docs/data.md)
#   --patients N       number of synthetic patients (400)
#   --seed N           seed of the synthetic patients, from 1 (1); the model has seen those of seed 0
#   --samples N        samples of each task in the benchmark (200; of your own data 6)
#   --max_steps N      end each training stage after N steps, to try the script
#   --synthesis_url URL --synthesis_model NAME    your own server, which writes the reasoning chains (otherwise a template)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

root=./datas/quickstart mimic="" maps="" patients=400 seed=1 url="" chain_model="" synthetic="" samples="" max_steps=()
while [ $# -gt 0 ]; do
  case "$1" in --*_dir|--maps_from|--patients|--seed|--samples|--max_steps|--synthesis_*)
    [ $# -gt 1 ] || { echo "error: $1: expected a value, got none." >&2; exit 2; } ;;
  esac
  case "$1" in
    --root_dir) root=$2; shift 2 ;;
    --mimic_dir) mimic=$2; shift 2 ;;
    --maps_from) maps=$2; shift 2 ;;
    --patients) patients=$2; shift 2 ;;
    --seed) seed=$2; shift 2 ;;
    --samples) samples=$2; shift 2 ;;
    --max_steps) max_steps=(--max_steps "$2"); shift 2 ;;
    --synthesis_url) url=$2; shift 2 ;;
    --synthesis_model) chain_model=$2; shift 2 ;;
    -h|--help) sed -n '2,11p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) echo "error: unknown flag $1. See --help." >&2; exit 2 ;;
  esac
done
[[ $seed =~ ^[1-9][0-9]*$ ]] || { echo "error: --seed $seed: expected a whole number from 1; the model has seen the patients of 0." >&2; exit 2; }

steps=14 number=0
step() { number=$((number + 1)); printf '\n\033[1m[%d/%d] %s\033[0m\n' "$number" "$steps" "$1"; }
look() { printf '      look: %s\n' "$1"; }

step "Environment (.venv)"
bash "$repo/scripts/setup_env.sh"
source "$repo/scripts/common.sh"
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-0}  # at most one GPU
make_directory "$root"
root=$(cd "$root" && pwd)

if [ -z "$mimic" ]; then
  step "Synthetic MIMIC-IV: $patients patients, all tables"
  synthetic=yes mimic="$root/mimiciv" made="$patients patients of seed $seed"
  if [ ! -d "$mimic" ]; then
    "$python" "$repo/preprocess/synthetic_mimic.py" --root_dir "$root" --patients "$patients" --seed "$seed"
    echo "$made" > "$root/synthetic"
  fi
  existing=$(cat "$root/synthetic" 2>/dev/null) || existing="others"
  [ "$existing" = "$made" ] || fail "$mimic: expected $made, got $existing. Choose another --root_dir, or set --patients and --seed."
  look "zcat $mimic/hosp/labevents.csv.gz | head"
else
  step "Your MIMIC-IV: $mimic"
  mimic=$(cd "$mimic" && pwd)
fi

step "Trajectories: the time-ordered events of each patient"
"$python" "$repo/preprocess/merge_patient.py" --root_dir "$root" --mimic_dir "$mimic"
"$python" "$repo/preprocess/rank.py" --root_dir "$root"
"$python" "$repo/preprocess/combination.py" --root_dir "$root"
look "cat $root/patients_ehr/provenance.json"

step "Train/test split, dictionaries and code maps"
"$python" "$repo/preprocess/split_patients.py" --root_dir "$root" --ehr_dir "$root/patients_ehr" --test_ratio 0.5
"$python" "$repo/preprocess/build_index_mapping.py" --root_dir "$root" --mimic_dir "$mimic" ${maps:+--maps_from "$maps"}

step "Task index: all samples of 46 tasks, with labels and leakage audit"
"$python" "$repo/mimiciv_dataset/task_sample_info_gen.py" --root_dir "$root"
look "head -3 $root/task_index/all/ED_Hospitalization.csv"

step "Candidate answers from the training patients"
"$python" "$repo/mimiciv_dataset/similar_item_gen.py" --root_dir "$root"

# Synthetic patients: five tasks of ED visits, whose inputs are short enough for a tiny model, and samples enough for intervals.
# Your patients: a few samples of every task that they have.
if [ -n "$synthetic" ]; then
  decision_config=quickstart risk_config=quickstart test_samples=${samples:-200} training_samples=160 balance=()
else
  decision_config=decision_making risk_config=risk_prediction test_samples=${samples:-6} training_samples=8 balance=(--balance_force)
fi
draw() {  # PATIENTS OUTPUT SAMPLES FLAGS: samples of each task, in a file for each kind of task
  local kind config=$decision_config
  for kind in decision_making risk_prediction; do
    "$python" "$repo/mimiciv_dataset/data_index_gen.py" --root_dir "$root" --data_index_dir "$root/task_index/all" \
      --subject_id_path "$root/patient_data/$1.csv" --data_config "$repo/scripts/data_configs/$config.json" --kind "${kind%_*}" \
      --output_path "$2/$kind.csv" --force_task_num "$3" "${@:4}"
    config=$risk_config
  done
}
step "Benchmark, sampled from the test patients"
bench="$root/ehr_bench"
draw test "$bench" "$test_samples" "${balance[@]}"
"$python" "$repo/mimiciv_dataset/validate_index.py" --root_dir "$root" "$bench/decision_making.csv" "$bench/risk_prediction.csv"

step "Training set, sampled from the training patients"
ins="$root/ehr_ins"
draw train "$ins" "$training_samples"
look "head -3 $ins/decision_making.csv"

step "Thinking graph: co-occurring concepts, and paths between history and answers in a graph of free vocabularies"
tg="$repo/thinking_graph_preprocess" evidence="$root/evidence_datas"
"$python" "$repo/mimiciv_dataset/task_sample_info_gen.py" --root_dir "$root" --output_path "$root/task_index/patient" --group patient
"$python" "$tg/concept_extraction.py" --root_dir "$root"
"$python" "$tg/coexistence_concept.py" --root_dir "$root"
"$python" "$tg/build_umls_graph.py" --free --root_dir "$root" --mimic_dir "$mimic"
"$python" "$tg/evidence_generation.py" --root_dir "$root" --data_index_path "$ins/decision_making.csv"
look "$python $tg/umls_graph.py --graph $evidence/graph 'Portal hypertension' 'Other liver diseases'"
if [ -n "$url" ]; then
  step "Reasoning chains by $chain_model at $url, filtered"
  "$python" "$tg/reasoning_generation.py" --root_dir "$root" --model "$chain_model" --base_url "$url"
  "$python" "$tg/filter_reasoning.py" --root_dir "$root"
  chains="$evidence/kept/reasoning.csv"
else
  step "Reasoning chains from a template (--synthesis_url uses a language model instead)"
  chains="$ins/reasoning.csv"
  "$python" "$repo/scripts/make_template_reasoning.py" "$ins/decision_making.csv" --root_dir "$root" --output_path "$chains" \
    --events 1 --first
fi
look "head -30 $chains"

step "A model of 0.5 million parameters, with random weights and as trained on 5,000 other synthetic patients, and its answers"
start="$repo/scripts/quickstart_model" untrained="$root/models/untrained"
if [ ! -d "$untrained" ]; then
  "$python" "$repo/scripts/make_tiny_model.py" --root_dir "$root" --output_path "$untrained" --tokenizer "$start"
fi
evaluate() {  # MODEL NAME FLAGS
  "$python" "$repo/test.py" --root_dir "$root" --model_name_or_path "$1" --output_path "$root/results/$2" --resume --batch 16 \
    --dataset_name "$bench/decision_making.csv,$bench/risk_prediction.csv" --max_seq_len 1792 --max_new_tokens 256 "${@:3}"
}
evaluate "$untrained" untrained
evaluate "$start" start
look "less $start/README.md"

step "Training: stage 1 on answers, stage 2 on chains, stage 3 with GRPO (a few steps each, a minute or two)"
stage() {  # SCRIPT OUTPUT FLAGS; small enough for a laptop. See scripts/recipes/ for real settings
  (cd "$repo" && "$python" "$1" --root_dir "$root" --output_dir "$root/models/$2" --bf16 False --report_to none \
    --dtype float32 --gradient_checkpointing False --save_strategy no --logging_steps 10 --warmup_steps 0.1 "${@:3}" "${max_steps[@]}" >> "$root/models/$2.log" 2>&1) \
    || { code=$?; [ $code = 130 ] && interrupted; tail -n 20 "$root/models/$2.log" >&2; exit $code; }
  tail -n 1 "$root/models/$2.log"
}
stage sft.py stage1 --model_name_or_path "$start" --dataset_name "$ins/decision_making.csv,$ins/risk_prediction.csv" \
  --max_length 1400 --per_device_train_batch_size 16 --max_steps 40 --learning_rate 3e-4
stage sft.py stage2 --model_name_or_path "$root/models/stage1" --dataset_name "$chains,$ins/risk_prediction.csv" \
  --max_length 1400 --per_device_train_batch_size 16 --max_steps 60 --learning_rate 1e-3
stage grpo.py stage3 --model_name_or_path "$root/models/stage2" --dataset_name "$ins/decision_making.csv" --max_steps 4 \
  --max_prompt_length 1400 --max_completion_length 256 --num_generations 4 --per_device_train_batch_size 16 --learning_rate 1e-5
look "less $root/models/stage1.log; cat $root/models/stage1/README.md"

step "Evaluation of the trained models: answers, p(yes), F1 and AUROC with intervals"
evaluate "$root/models/stage1" stage1
evaluate "$root/models/stage3" stage3 --think_prompt
look "head -1 $root/results/stage3/outputs.jsonl; cat $root/results/stage3/result.json"

step "Baselines, report, and viewer of patients, prompts and answers: two pages for your browser"
runs=("$root/results/stage3" "$root/results/stage1" "$root/results/start" "$root/results/untrained")
report="$root/results/stage3/report.html" view="$root/results/view.html"
"$python" -m evaluation.baselines "${runs[0]}"
"$python" -m evaluation.report "${runs[@]}" --markdown
"$python" "$repo/scripts/view.py" --root_dir "$root" --dataset_name "$bench/decision_making.csv,$bench/risk_prediction.csv" \
  --results "${runs[@]}" --limit 100 --output_path "$view"

cat <<END

All outputs are in $root
The report:             file://$report
Patients and answers:   file://$view

To run it on your MIMIC-IV:

  bash scripts/quickstart.sh --mimic_dir /path/to/mimiciv --root_dir ./datas

or step by step, as in README.md. The verdict on this run:

END
"$python" -m evaluation.verdict "${runs[0]}" "$root/results/untrained"
