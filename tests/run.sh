#!/usr/bin/env bash
# Installs what the tests need into a virtual environment (VENV, default .venv) and passes them: lint, types, tests.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
[ -d "$venv" ] || "${PYTHON:-python3}" -m venv "$venv"
bin="$venv/bin"; [ -d "$bin" ] || bin="$venv/Scripts"
# gradio 4.40 (Forge's) beside 3.41.2 (the web UI's), fetched meanwhile, and a browser for tests/ui where apt can give
# one. Without them those tests skip by name. Byte code is made when a module is first used, not of all there are.
pip=("$bin/python" -m pip install -q --no-compile)
export LORA_EXT_GRADIO4=${LORA_EXT_GRADIO4:-$venv/gradio4}
[ -d "$LORA_EXT_GRADIO4/gradio" ] || "${pip[@]}" --target "$LORA_EXT_GRADIO4" gradio==4.40.0 \
    "fastapi<0.113" "pydantic<2.11" "numpy<2; python_version < '3.13'" "audioop-lts; python_version >= '3.13'" \
    "huggingface_hub<1" "pillow<11" "markupsafe<3" &
"${pip[@]}" -c constraints.txt torch
"${pip[@]}" -c constraints.txt -e ".[standalone,ui,test,logging]"
install_browser() { # the first that apt has: without a window pages take half the processor time
    apt-get update
    for browser in chromium-headless-shell chromium; do
        DEBIAN_FRONTEND=noninteractive apt-get install -y "$browser" && return
    done
}
if ! command -v chromium-headless-shell >/dev/null && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    install_browser >/dev/null 2>&1 || command -v chromium >/dev/null ||
        echo "no Chromium could be installed; tests/ui will skip" >&2
fi
wait $! || unset LORA_EXT_GRADIO4
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || :; rm -rf "$work"' EXIT
# The program's text: lint, types, the documentation (its warnings are errors), the page's scripts, and the examples of
# docstrings.
check_text() {
    "$bin/ruff" check . && "$bin/ruff" format --check . && "$bin/mypy" &&
        NO_MKDOCS_2_WARNING=1 "$bin/mkdocs" build --strict -d "$work/site" && bash tests/javascript.sh &&
        "$bin/python" -m pytest --doctest-modules lora_ext --ignore=lora_ext/host/a1111
}
# One thread a process: these networks are too small to share out.
export OMP_NUM_THREADS=1
tests=("$bin/python" -m pytest -n auto --dist loadfile --ignore=tests/ui)
if [ $# -gt 0 ]; then
    check_text
    "${tests[@]}" "$@"
    exit
fi
# The browser's tests spend half their time on waiting for pages: the text and the other tests are checked meanwhile, at a
# lower priority, so that no page starves beside tests that compute. Each page (the standalone one, those of both gradios)
# has a program of its own.
(check_text && exec nice -n 10 "${tests[@]}") >"$work/rest.log" 2>&1 &
rest=$!
browser=0
"$bin/python" -m pytest tests/ui -n 3 --dist loadgroup || browser=$?
echo "lint, types, documentation and the other tests:"
wait "$rest" || { cat "$work/rest.log"; exit 1; }
cat "$work/rest.log"
exit "$browser"
