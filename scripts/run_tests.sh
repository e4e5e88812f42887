#!/usr/bin/env bash
# Runs the linters (ruff, import-linter), then the tests on all cores. Creates .venv if necessary.
#   --all             include the slow tests, as CI does
#   other arguments   are passed to pytest, such as tests/test_exact.py -x
# Tests on MIMIC-IV demo patients read $EHR_TEST_DATA (../shared) and are skipped if it does not exist.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

select=()
if [ "${1:-}" = "--all" ]; then select=(-m "slow or not slow"); shift; fi

bash scripts/setup_env.sh
export OMP_NUM_THREADS=1  # tiny models run several times faster on one thread
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports --no-logo
.venv/bin/python -m pytest -n auto --dist loadgroup "${select[@]}" "$@"
