#!/usr/bin/env bash
# Shared by the launchers of training: launch.sh LAUNCHER SCRIPT STAGE [RECIPE_DIR] [FLAGS]
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
launcher=$1 script=$2 stage=$3
shift 3

fail() { echo "$(basename "$launcher"): $*" >&2; exit 2; }

case "${1:-}" in -h|--help) grep '^# ' "$launcher" | sed 's/^# //'; exit 0 ;; esac
recipe=Qwen3-1.7B
case "${1:-}" in ""|-*) ;; *) recipe=$1; shift ;; esac
file="$recipe/$stage.yaml"; [ -f "$file" ] || file="$repo/scripts/recipes/$recipe/$stage.yaml"
[ -f "$file" ] || fail "$recipe: expected a directory with a recipe $stage.yaml, here or in scripts/recipes/, got none."
config=${ACCELERATE_CONFIG:-"$repo/scripts/accelerate_configs/deepspeed_zero3.yaml"}
[ -f "$config" ] || fail "ACCELERATE_CONFIG=$config: expected a file, got none."
gpus=$( (nvidia-smi --list-gpus 2>/dev/null || true) | wc -l)
[ -z "${CUDA_VISIBLE_DEVICES:-}" ] || gpus=$(tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | wc -l)
processes=${NUM_PROCESSES:-$gpus}
[ "$processes" -ge 1 ] || fail "expected a visible GPU, got none. Set NUM_PROCESSES to run on the CPU."
accelerate="$repo/.venv/bin/accelerate"; [ -x "$accelerate" ] || accelerate=$(command -v accelerate) || \
  fail "expected accelerate, got no such command. Create the environment with scripts/setup_env.sh."
# DeepSpeed configs name their JSON file relative to the repository; data and output paths are relative to the current directory.
temporary=$(mktemp --suffix .yaml); trap 'rm -f "$temporary"' EXIT
sed "s#: scripts/accelerate_configs/#: $repo/scripts/accelerate_configs/#" "$config" > "$temporary"
"$accelerate" launch --config_file "$temporary" --num_processes "$processes" "$repo/$script" --config "$file" "$@"
