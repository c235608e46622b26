#!/bin/sh
# Unpack servers that come as Debian packages: tools/servers.sh FOLDER
#
# `make test-systems` tests LayerGate with a real memcached. Where one is on PATH already, nothing is done.
# Else it is fetched from the machine's Debian (or Ubuntu) mirror and unpacked in FOLDER, without root and
# without being installed. Where that is impossible, it says so, and the tests that need the server are
# listed as not run.
set -eu

mkdir -p "$1"
folder=$(cd "$1" && pwd)

if command -v memcached >/dev/null 2>&1 || [ -x "$folder/memcached/usr/bin/memcached" ]; then
    exit 0
fi
if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-deb >/dev/null 2>&1; then
    echo "servers: no memcached on PATH, and no Debian packages here: its tests will be listed as not run" >&2
    exit 0
fi

echo "servers: unpacking memcached"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
# The libraries' names change with the release, so they are asked for.
libraries=$(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances memcached 2>/dev/null | sed -n "s/^ *|\{0,1\}Depends: \(lib[^ ]*\)\$/\1/p" | grep -v "^libc6\$")
# shellcheck disable=SC2086 # several words
if ! apt-get download memcached $libraries >download.log 2>&1; then
    cat download.log >&2
    echo "servers: memcached cannot be fetched: its tests will be listed as not run" >&2
    exit 0
fi
for package in ./*.deb; do
    dpkg-deb -x "$package" unpacked
done
rm -rf "$folder/memcached"
mv unpacked "$folder/memcached"
