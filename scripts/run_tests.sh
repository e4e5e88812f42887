#!/usr/bin/env bash
# Runs the checks and tests: ruff, then pytest on all cores. Makes .venv first if need be.
#   --all        the slow tests too (what CI runs)
#   other words  go to pytest: bash scripts/run_tests.sh tests/test_exact.py -x
# Tests on real MIMIC-IV demo patients look in $EHR_TEST_DATA (default: ../shared) and are skipped where it is not.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

select=()
if [ "${1:-}" = "--all" ]; then select=(-m "slow or not slow"); shift; fi

bash scripts/setup_env.sh
export OMP_NUM_THREADS=1  # tiny models are many times faster without thread hand-over
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports --no-logo
.venv/bin/python -m pytest -n auto --dist loadgroup "${select[@]}" "$@"
