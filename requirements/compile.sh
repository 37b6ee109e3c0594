#!/bin/sh
# Renew the lock files from the ranges in pyproject.toml. Needs uv on the path; needs nothing at run time.
set -eu
cd "$(dirname "$0")/.."
compile() {
    uv pip compile --universal --python-version 3.11 --generate-hashes --quiet \
        --no-emit-index-url --no-annotate --no-header --no-emit-package lodestream "$@"
}
# The development set first: its tools bound protobuf, and what is served is what was tested.
compile pyproject.toml --extra all --group dev --output-file requirements/dev.lock
compile pyproject.toml --extra all --constraints requirements/dev.lock --output-file requirements/serve.lock
# Each container image gets its own extra and what its settings need; `build` makes the wheel that goes into them.
image() {
    name="$1"
    shift
    compile pyproject.toml --extra "$name" "$@" --constraints requirements/dev.lock \
        --output-file "requirements/$name.lock"
}
image bridge --extra traces
image embedded --extra redis --extra postgres --extra traces
image service --extra redis --extra postgres --extra traces
echo hatchling | compile - --constraints requirements/dev.lock --output-file requirements/build.lock
