#!/usr/bin/env bash
# All benchmarks that need a GPU, in less than ten minutes: bash benchmarks/gpu.sh [FLAGS]; --help lists the flags.
# Environment: PYTHON=python3 (the repository's .venv if there is one).
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-python3}
if [ -z "${PYTHON:-}" ] && [ -x "$repo/.venv/bin/python" ]; then python="$repo/.venv/bin/python"; fi
exec "$python" "$repo/benchmarks/gpu.py" "$@"
