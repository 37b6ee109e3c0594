#!/bin/sh
# The npm packages that callers use, `openai` and `@ai-sdk/openai-compatible`, against real servers.
# Needs Node 20.11 or newer with npm, and the environment that `make test` sets up.
set -eu
cd "$(dirname "$0")"
node -e 'const [major, minor] = process.versions.node.split(".").map(Number);
         process.exit(major > 20 || (major === 20 && minor >= 11) ? 0 : 1)' 2>/dev/null && command -v npm >/dev/null || {
    echo "node: needs Node 20.11 or newer, with npm" >&2
    exit 1
}
npm ci >/dev/null
cd ../..
.venv/bin/python -m tests.node
# The page of the documentation for Node, which `make test` skips where these packages are not installed.
exec .venv/bin/pytest -q tests/lodestream/test_documented_blocks.py -k node.md
