#!/bin/sh
# Renew both lock files from the ranges in pyproject.toml. Needs uv on the path; needs nothing at run time.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile pyproject.toml --universal --python-version 3.10 --generate-hashes --quiet \
        --no-emit-index-url --no-annotate --no-header --no-emit-package lodestream "$@"
}
# The development set first: its tools bound protobuf, and what is served is what was tested.
compile --extra all --group dev --output-file requirements/dev.lock
compile --extra all --constraints requirements/dev.lock --output-file requirements/serve.lock
