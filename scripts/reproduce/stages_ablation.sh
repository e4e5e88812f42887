#!/usr/bin/env bash
# The ablation of the training stages: trains a model by a recipe and evaluates it on EHR-Bench after each stage: domain
# adaptation (stage1), reasoning SFT (stage2), GRPO (stage3).
#   bash scripts/reproduce/stages_ablation.sh [FLAGS] [-- FLAGS OF TEST.PY]
#   --recipe RECIPE     recipe directory of scripts/train/*.sh (Qwen3-1.7B); its output_dir are the models of the stages
#   --stage1 MODEL      existing model of a stage, which is not trained then; also --stage2, --stage3
#   --root_dir DIR      data directory (./datas); paths below ./datas in the recipe are taken below it
#   --output_path DIR   directory with RECIPE-stage1/ to RECIPE-stage3/ (./results/stages)
#   --dataset_name F,F  EHR-Bench as CSV or JSONL, instead of ROOT_DIR/ehr_bench/
#   --dry_run           print the training commands and the files that are missing, and do nothing else
# Environment: ACCELERATE_CONFIG and NUM_PROCESSES, as for scripts/train/*.sh. Flags after -- are passed to test.py. After an
# interruption, run the same command again to resume, in training too.
# Data:     ehr_ins/ and ehr_bench/ of scripts/build_datasets.sh, and the chains of scripts/reasoning_synthesis/synthesis.sh.
# Weights:  the base model of the recipe (Qwen/Qwen3-1.7B).
# GPUs:     8 with 80 GB for 1.7B and 8B, as the recipes are written; docs/training.md has estimates for each configuration.
# Time:     not measured.
# Prints:   decision F1 and risk AUROC after each stage. Those of EHR-R1 in the main table are beside those after stage 3;
#           those of the paper's ablation are not available here.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

options+=([output_path]=./results/stages [recipe]=Qwen3-1.7B [stage1]="" [stage2]="" [stage3]="" [dry_run]="")
parse_flags "$@"
[ ${#models[@]} -eq 0 ] || fail "expected flags, got ${models[0]}. Pass existing models with --stage1, --stage2 and --stage3."
recipe=${options[recipe]%/}
folder=$recipe
[ -f "$folder/sft.yaml" ] || folder="$repo/scripts/recipes/$recipe"
[ -f "$folder/sft.yaml" ] || fail "--recipe $recipe: expected a directory of recipes, here or in scripts/recipes/, got none."

# value_of KEY FILE: print a value of a recipe.
value_of() { sed -n "s/^$1: *\([^ ]*\).*/\1/p" "$2"; }

# train LAUNCHER MODEL: train a stage from a model, or from that of the recipe if it is empty.
train() {
  local file="$folder/$1.yaml" words=(--root_dir "$root")
  if [ "$root" != ./datas ]; then
    words+=(--dataset_name "$(value_of dataset_name "$file" | sed "s#\(^\|,\)\./datas/#\1$root/#g")")
  fi
  if [ -n "$2" ]; then words+=(--model_name_or_path "$2"); fi
  if [ -n "${options[dry_run]}" ]; then words+=(--dry_run); fi
  bash "$repo/scripts/train/$1.sh" "$folder" "${words[@]}"
}

if [ -z "${options[dry_run]}" ]; then expect_bench; open_results; fi
name=$(basename "$recipe") number=0 given=""
for launcher in sft sft_reasoning grpo; do
  number=$((number + 1)) code=0
  stage=stage$number before=$given
  given=${options[$stage]}
  model=${given:-$(value_of output_dir "$folder/$launcher.yaml")}
  if [ -z "$given" ]; then
    echo; echo "== $stage: training $model"
    train $launcher "$before" || code=$?
    [ $code -ne 130 ] || exit 130
    if [ $code -ne 0 ]; then failed+=("$stage and what is trained from it"); break; fi
  fi
  if [ -n "${options[dry_run]}" ]; then continue; fi
  setting=(--think_prompt)
  if [ $stage = stage1 ]; then setting=(); fi  # it learned answers only
  evaluate "$name-$stage" "$model" "$dataset" "${setting[@]}"
done
if [ -z "${options[dry_run]}" ]; then finish stages; fi
