# Sourced by the other shell scripts. Sets `repo`, this repository, and `python`, that of .venv or of the active environment.
#
# After Ctrl-C a script prints one line and exits with code 130. The Python commands print it and exit with that code, which
# ends a script under `set -e`; only scripts that wait for other programs need a trap: `trap interrupted INT`.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

fail() { echo "error: $*" >&2; exit 2; }

interrupted() { echo "interrupted. Run the same command again to resume." >&2; exit 130; }

# make_directory DIR: create a directory, unless it exists, and check that files can be written to it.
make_directory() {
  { mkdir -p "$1" && [ -w "$1" ]; } 2>/dev/null || fail "$1: expected a writable directory, got none. Choose another path."
}

# visible_gpus: print their number.
visible_gpus() {
  if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    tr ',' '\n' <<< "$CUDA_VISIBLE_DEVICES" | wc -l
  else
    { nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l
  fi
}

# dry_run WORDS...: whether --dry_run is among the words of a command.
dry_run() { [[ " $* " == *" --dry_run "* ]]; }

# start COMMAND...: run a command in place of this script. With --dry_run among its words, print it instead, and the files of
# its flags and of its recipe that do not exist.
start() {
  dry_run "$@" || exec "$@"
  local word flag="" file files=() words=()
  for word in "$@"; do [ "$word" = --dry_run ] || words+=("$word"); done
  printf '%q ' "${words[@]}"; echo
  for word in "${words[@]}"; do
    case $flag in
      --config) files+=("$word" $(sed -n 's/^\(dataset_name\|model_name_or_path\): *\([^ ]*\).*/\2/p' "$word" 2>/dev/null)) ;;
      --config_file|--dataset_name|--model_name_or_path|--lora_path|--instructions) files+=("$word") ;;
    esac
    flag=${word%%=*}; case $word in --*=*) files+=("${word#*=}") ;; esac
  done
  for file in $(tr ',' '\n' <<< "${files[*]}"); do
    case $file in
      ./*|/*|*.csv|*.jsonl|*.yaml|*.json) [ -e "$file" ] || echo "missing: $file" ;;  # others are names of the Hub
    esac
  done
  exit 0
}

python="$repo/.venv/bin/python"
[ -x "$python" ] || python=$(command -v python) || \
  fail "expected a Python environment, got none. Create it: bash $repo/scripts/setup_env.sh"

# python_command SCRIPT FLAGS... or -m MODULE FLAGS...: set the array `command` to python with these words.
python_command() {
  export PYTHONPATH="$repo${PYTHONPATH:+:$PYTHONPATH}"
  [ $# -gt 0 ] || fail "expected a script of the repository and its flags, got none."
  if [ "$1" = -m ]; then command=("$python" "$@"); return; fi
  [ -f "$repo/$1" ] || fail "$repo/$1: expected a script of the repository, got no such file. Check its name."
  command=("$python" "$repo/$1" "${@:2}")
}
