#!/usr/bin/env bash
# Installs what the tests need into a virtual environment (VENV, default .venv) and passes them: lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -d "$venv" ] || "${PYTHON:-python3}" -m venv "$venv"
bin="$venv/bin"; [ -d "$bin" ] || bin="$venv/Scripts"
"$bin/python" -m pip install -q -c constraints.txt torch
"$bin/python" -m pip install -q -c constraints.txt -e ".[standalone,test]"
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/python" -m pytest "$@"
