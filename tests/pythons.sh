#!/usr/bin/env bash
# The README's install commands with the other Pythons of pyproject.toml (3.10 to 3.13) that this machine has, one at a
# time in a copy of the project, and a part of the tests. A Python that is absent is skipped by name.
# `bash tests/pythons.sh 3.13` tries this one alone. What was installed is removed (torch with CUDA is 4.5 GB).
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

try_python() { # interpreter, folder
    local line
    mkdir "$2"
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xf - -C "$2"
    cd "$2"
    PYTHON=$1 bash demo.sh --help >/dev/null # installs, and --help spares the drawing
    # the README's later lines as they stand there, without constraints
    grep -oE '^\.venv/bin/pip install [^&#]*' README.md | while read -r line; do bash -c "$line" </dev/null; done
    .venv/bin/pip install --dry-run -e ".[optimizers,faces,logging]"
    .venv/bin/pip install -c constraints.txt pytest pytest-rerunfailures hypothesis
    .venv/bin/pip check
    .venv/bin/python -m pytest tests/test_api.py tests/test_readme.py
    .venv/bin/python -m pytest tests/ui/test_installed.py -k served # the wheel, and the page that `ui` opens
}

for version in ${*:-3.10 3.11 3.12 3.13}; do
    python=$(find_python "$version")
    if [ $# = 0 ] && [ "$version" = "$own" ]; then
        echo "Python $version runs all tests: not tried again"
    elif [ -z "$python" ]; then
        echo "Python $version is not on this machine: skipped"
    else
        start=$SECONDS
        (try_python "$python" "$work/$version")
        rm -rf "${work:?}/$version"
        echo "Python $version passed in $((SECONDS - start)) s"
    fi
done
