#!/bin/sh
# Install the studio as a new user does, from nothing into an environment of its own, and try all of it away from here.
# PYTHON names the interpreter (default python3); pip is used as the machine has it configured.
set -eu
cd "$(dirname "$0")/.."

home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
"${PYTHON:-python3}" -m venv "$home/venv"
"$home/venv/bin/python" -m pip install --quiet --disable-pip-version-check .
du -sh "$home/venv" | sed "s|$home/||"
"$home/venv/bin/python" tools/installed.py "$home/venv/bin"
