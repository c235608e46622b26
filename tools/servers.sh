#!/bin/sh
# Unpack servers that come as Debian packages: tools/servers.sh FOLDER
#
# `make test-systems` tests LayerGate with a real memcached, and with a real pgbouncer before a PostgreSQL. What
# is on PATH already is used. Else it is fetched from the machine's Debian (or Ubuntu) mirror and unpacked in
# FOLDER, without root and without being installed. Where that is impossible, it says so, and the tests
# that need the server are listed as not run.
set -eu

mkdir -p "$1"
folder=$(cd "$1" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# server NAME: the package and its program have this name.
server() {
    if command -v "$1" >/dev/null 2>&1 || [ -x "$folder/$1/usr/bin/$1" ] || [ -x "$folder/$1/usr/sbin/$1" ]; then
        return 0
    fi
    if ! command -v apt-get >/dev/null 2>&1 || ! command -v dpkg-deb >/dev/null 2>&1; then
        echo "servers: no $1 on PATH, and no Debian packages here: its tests will be listed as not run" >&2
        return 0
    fi
    echo "servers: unpacking $1"
    mkdir "$work/$1"
    cd "$work/$1"
    # The libraries' names change with the release, so they are asked for.
    libraries=$(apt-cache depends --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$1" 2>/dev/null | sed -n "s/^ *|\{0,1\}Depends: \(lib[^ ]*\)\$/\1/p" | grep -v "^libc6\$")
    # shellcheck disable=SC2086 # several words
    if ! apt-get download "$1" $libraries >download.log 2>&1; then
        cat download.log >&2
        echo "servers: $1 cannot be fetched: its tests will be listed as not run" >&2
        return 0
    fi
    for package in ./*.deb; do
        dpkg-deb -x "$package" unpacked
    done
    rm -rf "${folder:?}/$1"
    mv unpacked "$folder/$1"
}

server memcached
server pgbouncer
