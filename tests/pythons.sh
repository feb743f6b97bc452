#!/usr/bin/env bash
# The README's install commands with the other Pythons of pyproject.toml (3.10 to 3.13) that this machine has, one at a
# time in a copy of the project, and a part of the tests. A Python that is absent is skipped by name.
# `bash tests/pythons.sh 3.13` tries this one alone; `light:3.13` does without torch, which is 4.5 GB on Linux
# where no CPU build is at hand: every other pinned version must exist for that Python, and what needs no torch must run.
# `torch2.1:3.10` has the oldest torch, with the newest diffusers and transformers that still import with it, and the
# FastAPI and pydantic that AUTOMATIC1111's web UI pins. (accelerate 0.34 calls `torch.cpu.set_device`, which torch 2.2 brought,
# where several processes train on the CPU.)
# What was installed is removed.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PIP_QUIET=1 PIP_NO_COMPILE=1 PIP_NO_CACHE_DIR=1 OMP_NUM_THREADS=1
own=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')

find_python() { # prints the interpreter of a version, from the PATH or from pyenv
    local found
    for found in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python; do
        "$found" -c "import ensurepip, sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null || continue
        echo "$found"
        return
    done
}

enter_copy() { # folder
    mkdir "$1"
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$1"
    cd "$1"
}

try_light() { # interpreter, folder
    enter_copy "$2"
    "$1" -m venv .venv
    grep -v '^torch==' constraints.txt >pinned.txt
    .venv/bin/pip install --dry-run --no-deps --prefer-binary -r pinned.txt
    .venv/bin/pip install -c pinned.txt einops safetensors pillow tqdm numpy pytest pytest-rerunfailures hypothesis
    .venv/bin/pip install --no-deps -e .
    .venv/bin/python -W error -m compileall -q lora_ext scripts
    .venv/bin/python -m lora_ext --help >/dev/null
    .venv/bin/python -m pytest tests/test_{blocks,train_captions,unsupported_webui}.py
}

try_python() { # interpreter, folder
    local line
    enter_copy "$2"
    PYTHON=$1 bash demo.sh --help >/dev/null # installs, and --help spares the drawing
    # the README's later lines as they stand there, without constraints
    grep -oE '^\.venv/bin/pip install [^&#]*' README.md | while read -r line; do bash -c "$line" </dev/null; done
    .venv/bin/pip install --dry-run -e ".[optimizers,faces,logging]"
    .venv/bin/pip install -c constraints.txt pytest pytest-rerunfailures hypothesis
    .venv/bin/pip check
    .venv/bin/python -m pytest tests/test_api.py tests/test_readme.py
    .venv/bin/python -m pytest tests/ui/test_installed.py -k served # the wheel, and the page that `ui` opens
}

try_old_torch() { # interpreter, folder
    enter_copy "$2"
    "$1" -m venv .venv
    .venv/bin/pip install torch==2.1.2 "numpy<2" diffusers==0.30.3 transformers==4.44.2 "huggingface_hub<0.26" \
        accelerate==0.31.0 peft==0.12.0 einops==0.4.1 safetensors "pillow<11" tqdm pyyaml tomli \
        fastapi==0.94.0 "pydantic<2" "httpx<0.28" pytest pytest-rerunfailures hypothesis
    .venv/bin/pip install --no-deps -e .
    .venv/bin/python -m pytest -m "not long" tests/a1111 tests/test_{adapters,applied_networks,api,blocks,web_answers}.py \
        tests/test_{file_loading,inject,lora_tags,rank_reduction,tools_laws,train_network,train_run}.py \
        tests/test_train_{kinds,layer_products,modes,optimizers,textual_inversion}.py
}

for version in ${*:-3.10 3.11 3.12 3.13}; do
    try=try_python
    [ "$version" = "${version#light:}" ] || try=try_light
    [ "$version" = "${version#torch2.1:}" ] || try=try_old_torch
    version=${version#*:}
    python=$(find_python "$version")
    if [ $# = 0 ] && [ "$version" = "$own" ]; then
        echo "Python $version runs all tests: not tried again"
    elif [ -z "$python" ]; then
        echo "Python $version is not on this machine: skipped"
    else
        start=$SECONDS
        ("$try" "$python" "$work/$version")
        rm -rf "${work:?}/$version"
        echo "Python $version passed in $((SECONDS - start)) s"
    fi
done
