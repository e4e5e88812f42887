#!/usr/bin/env bash
# Trains the model that the quickstart starts from, on 5,000 synthetic patients of seed 0, in about 45 minutes.
#   --root_dir DIR      where the patients and the training run go (./datas/quickstart_model)
#   --output_path DIR   directory for the model (ROOT_DIR/model); copy it to scripts/quickstart_model to publish it
#   --patients N        number of synthetic patients (5000)
#   --max_steps N       stop training after N steps, to try the recipe
# The weights depend on the versions of torch and of Transformers and on the processor in their last digits, so that another
# machine makes another file that scores alike.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

root=./datas/quickstart_model output="" patients=5000 steps=()
while [ $# -gt 0 ]; do
  case "$1" in --*) [ $# -gt 1 ] || [ "$1" = --help ] || fail "$1: expected a value, got none." ;; esac
  case "$1" in
    --root_dir) root=$2; shift 2 ;;
    --output_path) output=$2; shift 2 ;;
    --patients) patients=$2; shift 2 ;;
    --max_steps) steps=(--max_steps "$2"); shift 2 ;;
    -h|--help) sed -n '2,8p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 0 ;;
    *) fail "unknown flag $1. See --help." ;;
  esac
done
make_directory "$root"
root=$(cd "$root" && pwd)
output=${output:-$root/model}
[ ! -e "$output" ] || fail "$output: expected a new directory, got one that exists. Choose another --output_path."
export TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1  # so small a model is trained faster on one core

[ -d "$root/mimiciv" ] || "$python" "$repo/preprocess/synthetic_mimic.py" --root_dir "$root" --patients "$patients" --seed 0
for step in merge_patient rank combination; do "$python" "$repo/preprocess/$step.py" --root_dir "$root"; done
"$python" "$repo/preprocess/split_patients.py" --root_dir "$root" --ehr_dir "$root/patients_ehr" --test_ratio 0.3
"$python" "$repo/preprocess/build_index_mapping.py" --root_dir "$root" --mimic_dir "$root/mimiciv"
"$python" "$repo/mimiciv_dataset/task_sample_info_gen.py" --root_dir "$root"

# First without, then with the discharge letter of an earlier stay in the input, which is three times as long as all else. The
# second pass also has some decision rows with a template chain before the answer, so that the model knows both ways to answer.
draw() {  # OUTPUT FLAGS
  "$python" "$repo/mimiciv_dataset/data_index_gen.py" --root_dir "$root" --subject_id_path "$root/patient_data/train.csv" \
    --data_config "$repo/scripts/data_configs/quickstart.json" --output_path "$root/$1" "${@:2}"
}
draw answers.csv
draw decisions.csv --kind decision
"$python" "$repo/scripts/make_template_reasoning.py" "$root/decisions.csv" --root_dir "$root" --output_path "$root/chains.csv" \
  --events 1 --first
"$python" - "$root/answers.csv" "$root/short.csv" <<'PYTHON'
import csv
import sys

with open(sys.argv[1], newline="", encoding="utf-8") as rows, open(sys.argv[2], "w", newline="", encoding="utf-8") as output:
    reader = csv.DictReader(rows)
    writer = csv.DictWriter(output, reader.fieldnames)
    writer.writeheader()
    writer.writerows(row for row in reader if not row["last_discharge_id"])
PYTHON
[ -d "$root/untrained" ] || "$python" "$repo/scripts/make_tiny_model.py" --root_dir "$root" --output_path "$root/untrained" \
  --dataset_name "$root/answers.csv" "$root/chains.csv" --samples 1500 --vocab_size 6144 --long_tokens
train() {  # MODEL OUTPUT FLAGS; a pass that is finished is not repeated
  [ ! -f "$root/$2/ehr_training.json" ] || return 0
  "$python" "$repo/sft.py" --root_dir "$root" --model_name_or_path "$root/$1" --output_dir "$root/$2" --overwrite \
    --max_length 1400 --load_dataset_mode direct --dataset_num_proc 2 --per_device_train_batch_size 16 --weight_decay 0.1 \
    --warmup_steps 0.03 --seed 0 --bf16 False --gradient_checkpointing False --report_to none --logging_steps 50 \
    --save_strategy no "${@:3}" "${steps[@]}"
}
train untrained first --dataset_name "$root/short.csv" --num_train_epochs 5 --learning_rate 3e-3
train first second --dataset_name "$root/answers.csv,$root/chains.csv" --dataset_weights 1,0.25 --num_train_epochs 1 --learning_rate 1e-3

# The published files: weights in bfloat16, and the wording of the instructions that the model was trained with. Its patients are
# synthetic, and share their ids with those of other seeds, so that a list of them would raise false alarms.
"$python" - "$root/second" "$output" <<'PYTHON'
import json
import sys
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

trained, output = map(Path, sys.argv[1:])
AutoModelForCausalLM.from_pretrained(trained, dtype="bfloat16").save_pretrained(output)
AutoTokenizer.from_pretrained(trained).save_pretrained(output)
about = json.loads((trained / "ehr_training.json").read_text(encoding="utf-8"))
about = {"data": {"instructions_sha256": about["data"]["instructions_sha256"]}}
(output / "ehr_training.json").write_text(json.dumps(about) + "\n", encoding="utf-8")
PYTHON
(cd "$output" && sha256sum -- *)
