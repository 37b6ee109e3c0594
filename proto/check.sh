#!/bin/sh
# Lint the protocol, compare it with the last released one, and see that the generated modules are fresh.
set -eu
cd "$(dirname "$0")"
bin="$(cd ../.venv/bin && pwd)"
"$bin/buf" lint
"$bin/buf" breaking --against released.binpb
fresh="$(mktemp -d)"
trap 'rm -rf "$fresh"' EXIT
./generate.sh "$fresh"
for made in "$fresh"/lodestream/inference/v1/*; do
    cmp -s "$made" "lodestream/inference/v1/${made##*/}" || {
        echo "proto: ${made##*/} is stale; run: make proto" >&2
        exit 1
    }
done
