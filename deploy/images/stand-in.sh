#!/bin/sh
# Make bases to build on where no registry can be reached: localhost/stand-in for the official image of Python, and
# localhost/stand-in-tensorrt-llm for NVIDIA's. Needs root, buildah, debootstrap, and Debian's packages.
set -eu
cd "$(dirname "$0")"
certificates="${PIP_CERT:-/etc/ssl/certs/ca-certificates.crt}"
work="$(mktemp -d)"
container=""
finish() {
    test -z "$container" || buildah rm "$container" >/dev/null
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' HUP INT TERM

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv bookworm "$work/root" >"$work/log" 2>&1 || {
    tail -n 20 "$work/log" >&2
    exit 1
}
rm -rf "$work"/root/var/cache/apt/* "$work"/root/var/lib/apt/lists/*
# This machine's certificates, in case it reaches the package index through a proxy that has its own.
cp "$certificates" "$work/root/etc/ssl/certs/stand-in.crt"
container="$(buildah from scratch)"
buildah copy --quiet "$container" "$work/root" / >/dev/null
buildah config --env PIP_CERT=/etc/ssl/certs/stand-in.crt "$container"
buildah commit --quiet "$container" localhost/stand-in
buildah bud --quiet --file stand-in-tensorrt-llm.Dockerfile --tag localhost/stand-in-tensorrt-llm .
