#!/usr/bin/env bash
# From graph to score: what the knowledge graph adds to reasoning chains, and chains to the score, on synthetic patients whose
# hidden truth knows the causes. Trains stage 2 three times from the same model, on the same rows for the same steps: on answers
# only (without_chains), on chains written without the graph (without_graph), and with it (with_graph).
#   bash scripts/reproduce/graph_ablation.sh [FLAGS] [-- FLAGS OF TEST.PY]
#   --root_dir DIR      data directory (./datas/graph_ablation)
#   --patients N        number of synthetic patients (1500)
#   --seed N            seed of the patients, from 1 (1); the default model has seen those of seed 0
#   --seeds N           number of training seeds of each arm (1)
#   --steps N           training steps of 16 rows (300)
#   --rows N            training rows of each task at most (1000)
#   --test_rows N       test rows of each task at most (300)
#   --model DIR         model to train (scripts/quickstart_model)
#   --base_url URL      OpenAI-compatible server of the model that writes the chains; otherwise a script writes them, which
#                       knows only what the prompt shows
#   --writer NAME       name of the model on that server
# Flags after -- are passed to test.py. After an interruption, run the same command again to resume.
# Data:     none; the patients are synthetic.
# Weights:  none to download: scripts/quickstart_model is trained.
# GPUs:     none.
# Time:     not measured on quiet cores; an estimated 15 minutes, and 10 more for each further seed.
# Prints:   chains written and kept, the share of cited events that are true causes, and held-out F1; the same in
#           ROOT_DIR/graph_ablation/result.json and ROOT_DIR/report.html.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options+=([root_dir]=./datas/graph_ablation [patients]=1500 [seed]=1 [seeds]=1 [steps]=300 [rows]=1000 [test_rows]=300)
options+=([model]="$repo/scripts/quickstart_model" [base_url]="" [writer]=scripted-writer)
parse_flags "$@"
[ ${#models[@]} -eq 0 ] || fail "expected flags, got ${models[0]}. Pass the model with --model."
[ -z "$results$dataset" ] || fail "expected neither --dataset_name nor --output_path, got one. Everything is below --root_dir."
for name in patients seed seeds steps rows test_rows; do
  [[ ${options[$name]} =~ ^[1-9][0-9]*$ ]] || fail "--$name ${options[$name]}: expected a whole number from 1."
done
[ -f "${options[model]}/config.json" ] || fail "--model ${options[model]}: expected the directory of a model, got none."
model=$(cd "${options[model]}" && pwd)
make_directory "$root"
root=$(cd "$root" && pwd)
# The flags that decide the result. More --seeds can be added later.
given=$(printf -- '--%s ' "patients ${options[patients]}" "seed ${options[seed]}" "steps ${options[steps]}" "rows ${options[rows]}" \
  "test_rows ${options[test_rows]}" "writer ${options[writer]}" "model $model")
flags_file="$root/graph_ablation.txt"
[ ! -f "$flags_file" ] || [ "$(cat "$flags_file")" = "$given" ] || \
  fail "$root: expected the flags that it was begun with ($(cat "$flags_file")), got others. Choose another --root_dir."
echo "$given" > "$flags_file"
out="$root/graph_ablation" results="$root/graph_ablation/results" evidence="$root/evidence_datas"
tasks=(diagnosis diagnosis_ccs)
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false  # so small a model is trained faster on one core

# do_step SCRIPT FLAGS...: run a command of this repository on the data directory.
do_step() { "$python" "$repo/$1" --root_dir "$root" "${@:2}"; }

echo "== patients, trajectories and index"
[ -d "$root/mimiciv" ] || do_step preprocess/synthetic_mimic.py --patients "${options[patients]}" --seed "${options[seed]}"
for step in merge_patient rank combination; do do_step preprocess/$step.py; done
do_step preprocess/split_patients.py --ehr_dir "$root/patients_ehr" --test_ratio 0.3
do_step preprocess/build_index_mapping.py --mimic_dir "$root/mimiciv"
do_step mimiciv_dataset/task_sample_info_gen.py --task "${tasks[@]}"
do_step scripts/graph_ablation.py rows --train_rows "${options[rows]}" --test_rows "${options[test_rows]}"

echo; echo "== evidence from the knowledge graph of the synthetic world"
do_step thinking_graph_preprocess/concept_extraction.py --data_index_dir "$root/task_index/all"
do_step thinking_graph_preprocess/coexistence_concept.py --task "${tasks[@]}"
do_step scripts/graph_ablation.py knowledge
do_step thinking_graph_preprocess/build_umls_graph.py --umls_dir "$out/META"
do_step thinking_graph_preprocess/evidence_generation.py --data_index_path "$out/train.csv"

url=${options[base_url]}
if [ -z "$url" ]; then
  rm -f "$out/writer_url"
  "$python" "$repo/scripts/scripted_writer.py" --url_file "$out/writer_url" &
  writer=$!
  trap 'kill $writer 2>/dev/null || true' EXIT
  for _ in $(seq 100); do
    [ ! -f "$out/writer_url" ] || break
    kill -0 $writer 2>/dev/null || fail "scripts/scripted_writer.py: expected a server, got none. See the error above."
    sleep 0.1
  done
  url=$(cat "$out/writer_url")
fi
for arm in without_graph with_graph; do
  echo; echo "== $arm: chains by ${options[writer]}"
  shown=(); [ $arm = with_graph ] || shown=(--without_knowledge)
  do_step thinking_graph_preprocess/reasoning_generation.py --data_index_path "$evidence/evidence/train.csv" --base_url "$url" \
    --model "${options[writer]}" --output_path "$out/chains/$arm" --n 2 "${shown[@]}"
  do_step thinking_graph_preprocess/filter_reasoning.py --data_index_path "$evidence/evidence/train.csv" \
    --reasoning_path "$out/chains/$arm" --output_path "$out/chains/$arm/kept.csv"
done
do_step scripts/graph_ablation.py arms

# train ARM SEED: train an arm from the model, unless that is finished.
train() {
  local trained="$root/models/$1-$2"
  [ ! -f "$trained/ehr_training.json" ] || return 0
  echo; echo "== $1, seed $2: training $trained"
  (cd "$repo" && "$python" sft.py --root_dir "$root" --model_name_or_path "$model" --output_dir "$trained" --overwrite \
    --dataset_name "$out/arms/$1.csv" --max_steps "${options[steps]}" --seed "$2" --per_device_train_batch_size 16 \
    --max_length 1200 --learning_rate 1e-3 --warmup_steps 0.05 --weight_decay 0.1 --bf16 False --dtype float32 \
    --gradient_checkpointing False --save_strategy no --logging_steps 50 --report_to none > "$trained.log" 2>&1) \
    || { code=$?; [ $code = 130 ] && interrupted; tail -n 20 "$trained.log" >&2; exit $code; }
}
mkdir -p "$root/models" "$results"
for seed in $(seq 0 $((options[seeds] - 1))); do
  for arm in without_chains without_graph with_graph; do
    train $arm "$seed"
    answer=(--think_prompt); [ $arm != without_chains ] || answer=()
    evaluate "$arm-$seed" "$root/models/$arm-$seed" "$out/test.csv" --batch 16 --max_seq_len 1584 --max_new_tokens 384 "${answer[@]}"
  done
done
[ ${#failed[@]} -eq 0 ] || fail "failed: ${failed[*]}. See the errors above, and run the same command again to resume."
echo
do_step scripts/graph_ablation.py result --seeds "${options[seeds]}" --writer "${options[writer]}"
(cd "$repo" && "$python" -m evaluation.report "$results"/{with_graph,without_graph,without_chains}-0 \
  --graph_ablation "$out/result.json" --output_path "$root/report.html")
