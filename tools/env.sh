#!/bin/sh
# Bring a virtual environment up to date: tools/env.sh VENV GROUP [PYTHON]
#
# Creates VENV with the first Python >= 3.11 that works (PYTHON, if given, is the only one tried),
# then installs LayerGate (editable) and the dependency group GROUP of pyproject.toml. Does nothing
# when that was done before for this very pyproject.toml in this very folder.
set -eu

venv=$1
group=$2
wanted=${3:-}

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
mkdir -p "$(dirname "$venv")"
venv="$(cd "$(dirname "$venv")" && pwd)/$(basename "$venv")"
python="$venv/bin/python"
stamp="$venv/.layergate-$group"
# The content, not its date: a checkout changes dates. The folder: scripts in a virtual environment
# and the editable install name it, so a copied or moved tree needs a new one.
state="$venv $(cksum <pyproject.toml)"

works() {
    # A shim may be on PATH and yet start nothing, and a distribution may ship Python without venv.
    "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$state" ] && works "$python"; then
    exit 0
fi

if [ -d "$venv" ]; then
    for old in "$venv"/.layergate-*; do
        if [ -f "$old" ] && [ "$(cut -d' ' -f1 <"$old")" != "$venv" ]; then
            echo "env: $venv was made in another folder, making it anew"
            rm -rf "$venv"
            break
        fi
    done
fi

if ! works "$python"; then
    found=
    for candidate in ${wanted:-python3.13 python3.12 python3.11 python3.14 python3 python}; do
        if works "$candidate"; then
            found=$candidate
            break
        fi
    done
    if [ -z "$found" ]; then
        if [ -n "$wanted" ]; then
            echo "error: PYTHON=$wanted is no working Python >= 3.11 with its venv module." >&2
        else
            echo "error: LayerGate needs Python >= 3.11 with its venv module, and none of python3.11 to" >&2
            echo "python3.14, python3, python on PATH is one (on Debian and Ubuntu venv is a package of" >&2
            echo "its own: python3-venv). Install one, or name it: make PYTHON=/path/to/python3" >&2
        fi
        exit 1
    fi
    rm -rf "$venv"
    echo "env: $venv with $("$found" --version)"
    "$found" -m venv "$venv"
fi

pip() {
    "$python" -m pip --disable-pip-version-check --no-input -qq "$@"
}

echo "env: installing group '$group'"
# --group (PEP 735) came with pip 25.1; what a Python brings along may be older.
pip install --upgrade 'pip>=25.1'
pip install --group "$group" --editable .
printf '%s\n' "$state" >"$stamp"
