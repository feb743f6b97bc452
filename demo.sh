#!/usr/bin/env bash
# Installs into a virtual environment (VENV, default .venv) and draws the demo's sheet.
set -euo pipefail
cd "$(dirname "$0")"
venv=${VENV:-.venv}
[ -d "$venv" ] || "${PYTHON:-python3}" -m venv "$venv"
bin="$venv/bin"; [ -d "$bin" ] || bin="$venv/Scripts"
"$bin/python" -m pip install -q -c constraints.txt torch
"$bin/python" -m pip install -q -c constraints.txt -e ".[standalone]"
"$bin/python" -m lora_ext demo "$@"
