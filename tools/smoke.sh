#!/bin/sh
# Build the sdist and from it the wheel, install the wheel alone into a fresh environment outside of
# the tree and use it there: tools/smoke.sh PYTHON
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
case $1 in /*) python=$1 ;; *) python=$root/$1 ;; esac

outside=$(mktemp -d)
trap 'rm -rf "$outside"' EXIT
trap 'exit 1' HUP INT TERM

"$python" -m build --outdir "$outside/dist" . >"$outside/build.log" 2>&1 || {
    cat "$outside/build.log" >&2
    exit 1
}
"$python" -m venv "$outside/venv"
pip() { "$outside/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
pip --quiet install "$outside"/dist/*.whl
# The parser of structured fields and what that needs, the codec, and nothing more.
came=$(pip list --format=freeze --exclude pip --exclude setuptools |
    sed 's/[ =].*//' | tr 'A-Z_' 'a-z-' | sort | tr '\n' ' ')
if [ "$came" != "http-sf layergate msgpack typing-extensions " ]; then
    echo "error: installing LayerGate brought: $came" >&2
    exit 1
fi
# -I: neither the current folder nor the script's is on sys.path.
cd "$outside"
"$outside/venv/bin/python" -I "$root/tools/smoke.py"
"$outside/venv/bin/layergate" explain -X POST http://example.org/hello >/dev/null  # which sends nothing
"$outside/venv/bin/python" -I -m layergate --version
