#!/bin/sh
# Generate the Python modules beside the protocol files. With a directory as argument, write there instead.
set -eu
cd "$(dirname "$0")"
out="${1:-.}"
bin="$(cd ../.venv/bin && pwd)"
# protoc finds the mypy plugins on the path.
PATH="$bin:$PATH" "$bin/python" -m grpc_tools.protoc -I. \
    --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" \
    lodestream/inference/v1/*.proto
