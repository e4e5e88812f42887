#!/usr/bin/env bash
# Data parallel evaluation: N processes of test.py, one GPU each, share the samples as interleaved chunks; then the score.
#   bash scripts/test/test_dp.sh [--processes N] TEST.PY'S FLAGS
#   --processes N   processes (one for every visible GPU; without GPUs 1, on the CPU)
# --output_path must be among the flags: outputs-I-of-N.jsonl, result.json and logs/ go there. With --resume it goes on where it
# was. For models larger than one GPU see test_tp.sh, test_pp.sh; for a cluster scripts/slurm/test_array.slurm.
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
python="$repo/.venv/bin/python"; [ -x "$python" ] || python=python

fail() { echo "test_dp.sh: $*" >&2; exit 2; }

processes="" output="" flags=()
while [ $# -gt 0 ]; do
  case "$1" in
    -h|--help) sed -n '2,6p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'; exit 0 ;;
    --chunk_num*|--chunk_idx*) fail "${1%%=*}: the chunks are set here; say how many with --processes" ;;
    --processes) [ $# -gt 1 ] || fail "--processes: wanted a number after it"; processes=$2; shift 2 ;;
    --output_path) [ $# -gt 1 ] || fail "--output_path: wanted a folder after it"; output=$2; flags+=("$1" "$2"); shift 2 ;;
    --output_path=*) output=${1#*=}; flags+=("$1"); shift ;;
    *) flags+=("$1"); shift ;;
  esac
done
[ -n "$output" ] || fail "wanted --output_path among test.py's flags"

if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
  IFS=, read -ra gpus <<< "$CUDA_VISIBLE_DEVICES"
else
  mapfile -t gpus < <(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null || true)
fi
if [ -z "$processes" ]; then processes=$(( ${#gpus[@]} > 0 ? ${#gpus[@]} : 1 )); fi
[[ "$processes" =~ ^[1-9][0-9]*$ ]] || fail "--processes $processes: wanted a number of at least 1"
if [ ${#gpus[@]} -gt 0 ] && [ "$processes" -gt ${#gpus[@]} ]; then
  fail "--processes $processes: wanted at most one for every visible GPU, found ${#gpus[@]}"
fi

mkdir -p "$output/logs"
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true' INT TERM
for ((i = 0; i < processes; i++)); do
  log="$output/logs/chunk-$i-of-$processes.log"
  echo "test_dp.sh: chunk $i of $processes${gpus[i]:+ on GPU ${gpus[i]}}, log in $log"
  if [ ${#gpus[@]} -gt 0 ]; then device=(env "CUDA_VISIBLE_DEVICES=${gpus[i]}"); else device=(env); fi
  "${device[@]}" "$python" "$repo/test.py" "${flags[@]}" --chunk_num "$processes" --chunk_idx "$i" > "$log" 2>&1 &
  pids+=($!)
done

failed=()
for ((i = 0; i < processes; i++)); do
  if ! wait "${pids[i]}"; then
    failed+=("$i")
    echo "test_dp.sh: chunk $i failed; the end of its log:" >&2
    tail -n 3 "$output/logs/chunk-$i-of-$processes.log" >&2
  fi
done
if [ ${#failed[@]} -gt 0 ]; then
  echo "test_dp.sh: ${#failed[@]} of $processes chunks failed (${failed[*]}); mend the cause and run again with --resume" >&2
  exit 1
fi
"$python" -m evaluation.score "$output"
