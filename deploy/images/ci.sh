#!/bin/sh
# CI's part of the images: everything that deploy/README.md promises of them and that no GPU is needed for, on a fresh
# Debian machine without any registry of images. Needs root. Run after `make test`. Leaves no image behind.
set -eu
cd "$(dirname "$0")/../.."
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq --yes --no-install-recommends buildah debootstrap procps >/dev/null

work="$(mktemp -d)"
export BUILDAH_ISOLATION=chroot CONTAINERS_STORAGE_CONF="$work/storage.conf"
finish() {
    status=$?
    trap - EXIT
    buildah rm --all >/dev/null || true
    buildah rmi --all --force >/dev/null || true
    rm -rf "$work"
    exit "$status"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

# A store of its own: whatever images this machine has are none of our business.
store() {
    printf '[storage]\ndriver = "%s"\ngraphroot = "%s"\nrunroot = "%s"\n' "$1" "$work/$1" "$work/run" >"$work/storage.conf"
}
store overlay
# Copies of whole trees are slow, but possible everywhere.
buildah info >/dev/null 2>&1 || store vfs

deploy/images/wheel.sh
deploy/images/stand-in.sh
CONTAINER_TOOL=buildah deploy/images/images.sh --build-arg PYTHON_BASE=localhost/stand-in
echo "images: building tensorrt-llm on a stand-in"
deploy/images/build.sh tensorrt-llm --build-arg PYTHON_BASE=localhost/stand-in \
    --build-arg TENSORRT_LLM_BASE=localhost/stand-in-tensorrt-llm
container="$(buildah from localhost/lodestream-tensorrt-llm)"
buildah run "$container" -- /opt/nvidia/nvidia_entrypoint.sh lodestream version
