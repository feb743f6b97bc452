#!/usr/bin/env bash
# The page's modules: unit tests of what needs no page, types, rules and format. Skipped by name without node.
set -euo pipefail
cd "$(dirname "$0")/.."
new_enough='const [major, minor] = process.versions.node.split("."); process.exit(major > 20 || (major == 20 && minor >= 19) ? 0 : 1)'
if ! command -v node >/dev/null || ! node -e "$new_enough"; then
    echo "tests/javascript: skipped, there is no node 20.19 or later" >&2
    exit 0
fi
node --test tests/javascript/*.test.mjs
if ! command -v npm >/dev/null; then
    echo "the types, rules and format of javascript/: skipped, there is no npm" >&2
    exit 0
fi
npm install --silent
for check in types lint format; do npm run --silent "$check"; done
