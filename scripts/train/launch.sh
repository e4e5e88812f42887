#!/usr/bin/env bash
# Shared by the launchers of training: launch.sh LAUNCHER SCRIPT STAGE [RECIPE_DIR] [FLAGS]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"
launcher=$1 script=$2 stage=$3 name=$(basename "$1")
shift 3

case "${1:-}" in -h|--help) grep '^# ' "$launcher" | sed 's/^# //'; exit 0 ;; esac
recipe=Qwen3-1.7B
case "${1:-}" in ""|-*) ;; *) recipe=$1; shift ;; esac
file="$recipe/$stage.yaml"; [ -f "$file" ] || file="$repo/scripts/recipes/$recipe/$stage.yaml"
[ -f "$file" ] || fail "$name, $recipe: expected a directory with a recipe $stage.yaml, here or in scripts/recipes/, got none."
config=${ACCELERATE_CONFIG:-"$repo/scripts/accelerate_configs/deepspeed_zero3.yaml"}
[ -f "$config" ] || fail "ACCELERATE_CONFIG=$config: expected a file, got none."
processes=${NUM_PROCESSES:-$(visible_gpus)}
if dry_run "$@" && [ "$processes" = 0 ]; then processes=8; fi  # as on a machine with GPUs
[ "$processes" -ge 1 ] || fail "$name: expected a visible GPU, got none. Set NUM_PROCESSES to run on the CPU."
accelerate="$repo/.venv/bin/accelerate"; [ -x "$accelerate" ] || accelerate=$(command -v accelerate) || \
  fail "expected accelerate, got no such command. Create the environment: bash $repo/scripts/setup_env.sh"
command=(launch --config_file "$config" --num_processes "$processes" "$repo/$script" --config "$file" "$@")
if dry_run "$@"; then start "$accelerate" "${command[@]}"; fi
# DeepSpeed configs name their JSON file relative to the repository; data and output paths are relative to the current directory.
command[2]=$(mktemp --suffix .yaml); trap 'rm -f "${command[2]}"' EXIT
sed "s#: scripts/accelerate_configs/#: $repo/scripts/accelerate_configs/#" "$config" > "${command[2]}"
# As `accelerate launch`, but without its traceback after Ctrl-C.
"$(dirname "$accelerate")/python" - "${command[@]}" <<'PYTHON'
import sys

from accelerate.commands.accelerate_cli import main
from torch.distributed.elastic.multiprocessing.api import SignalException

try:
    main()
except (KeyboardInterrupt, SignalException):
    sys.exit(130)
PYTHON
