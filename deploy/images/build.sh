#!/bin/sh
# Build one stage of the Dockerfile with buildah, as localhost/lodestream-STAGE: STAGE [ARGUMENT ...].
set -eu
cd "$(dirname "$0")/../.."
target="$1"
shift
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
# Only docker's format has health checks.
buildah bud --format docker --target "$target" --tag "localhost/lodestream-$target" "$@" . >"$log" 2>&1 || {
    tail -n 60 "$log" >&2
    exit 1
}
