#!/bin/sh
# Installs the third parties that some tests talk to and no wheel brings. Needs Debian or its kin, and root.
set -eu
missing=""
for package in prometheus redis-server chromium postgresql; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
test -n "$missing" || exit 0
# Debian starts the servers of packages at once; the tests start their own.
policy=/usr/sbin/policy-rc.d
if ! test -e "$policy"; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod +x "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
