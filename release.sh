#!/usr/bin/env bash
# Writes dist/lora-ext-VERSION.zip (or into the folder that is given): the folder that belongs into a web UI's `extensions`,
# as the newest commit has it, with what `pip install .` needs and without tests and measurements.
set -euo pipefail
out=$(mkdir -p "${1:-dist}" && cd "${1:-dist}" && pwd)
cd "$(dirname "$0")"
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' lora_ext/__init__.py)
git archive --format=zip --prefix=lora-ext/ -o "$out/lora-ext-$version.zip" HEAD -- . \
    ':!tests' ':!fuzz' ':!benchmarks' ':!.[a-z]*' ':!eslint.config.mjs' ':!package.json' ':!tsconfig.json' ':!release.sh'
echo "$out/lora-ext-$version.zip"
