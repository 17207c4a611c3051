#!/bin/sh
# Make an environment with the packages of requirements files; by default .venv, with what the studio and its tests need.
# Usage: tools/venv.sh [FOLDER FILE...]. Called again with nothing changed, it does nothing.
# PYTHON names the interpreter (default python3); pip is used as the machine has it configured.
set -eu
cd "$(dirname "$0")/.."

[ $# -gt 0 ] || set -- .venv requirements.txt requirements-dev.txt
python=${PYTHON:-python3}
venv=$1
shift
stamp=$venv/.requirements # a copy of what was installed; written last, so a broken install is done again

die() {
    echo "venv: $*" >&2
    exit 1
}

works() { # false too when the interpreter it was made from has gone, or when it was left half made
    "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

create() {
    command -v "$python" >/dev/null ||
        die "there is no $python here. Install Python 3.11 or newer (Debian, Ubuntu: apt-get install python3-venv) or name one: make PYTHON=/path/to/python3"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$python is $("$python" --version 2>&1 || true), and 3.11 or newer is needed. Name another one: make PYTHON=/path/to/python3"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        die "$python has no ensurepip, so it cannot make an environment. Install it (Debian, Ubuntu: apt-get install python3-venv) and run this again"
    echo "venv: making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
}

if cat "$@" | cmp -s - "$stamp" && works; then
    exit 0
fi
rm -f "$stamp"
works || create
echo "venv: installing $* (minutes, the first time)"
# shellcheck disable=SC2046 # one word for each file and each -r
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check $(printf ' -r %s' "$@") ||
    die "pip could not install the requirements (its own message is above). If pip itself is too old: $venv/bin/python -m pip install --upgrade pip"
cat "$@" >"$stamp"
