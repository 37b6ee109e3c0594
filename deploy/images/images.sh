#!/bin/sh
# Build the images `bridge` and `cpu`, run both and put a question to them.
# With docker and its compose plugin where they are, else with buildah as root. Arguments go to the builds,
# such as --build-arg PYTHON_BASE=...
set -eu
cd "$(dirname "$0")/../.."
tool="${CONTAINER_TOOL:-}"
if test -z "$tool"; then
    if docker compose version >/dev/null 2>&1; then tool=docker; else tool=buildah; fi
fi
case "$tool" in
docker)
    docker compose --profile cpu build "$@"
    docker images --format '{{.Repository}} {{.Size}}' 'lodestream-*'
    deploy/images/try-compose.sh
    ;;
buildah)
    command -v buildah >/dev/null || {
        echo "images: needs docker with its compose plugin, or buildah" >&2
        exit 1
    }
    for target in bridge cpu; do
        echo "images: building $target"
        deploy/images/build.sh "$target" "$@"
    done
    buildah images --format '{{.Name}} {{.Size}}'
    python3 deploy/images/try_buildah.py
    ;;
*)
    echo "images: CONTAINER_TOOL is docker or buildah, not $tool" >&2
    exit 1
    ;;
esac
