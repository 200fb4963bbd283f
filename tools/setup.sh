#!/bin/bash
# requirements.lock -> a virtual environment: uv where there is one, else venv and pip. No root.
#
# usage: tools/setup.sh VENV
# writes VENV, then VENV/.medtune, which holds the checksums it was made from: unchanged, so nothing is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: tools/setup.sh VENV}
ready=$venv/.medtune
sums=$(cksum requirements.lock pyproject.toml)

if [ -x "$venv/bin/python" ] && [ "$(cat "$ready" 2>/dev/null)" = "$sums" ]; then
  touch "$ready"
  exit 0
fi

recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local name
  for name in python3.13 python3.12 python3.11 python3; do
    if command -v "$name" >/dev/null && recent "$name"; then command -v "$name"; return; fi
  done
  uv python find --no-python-downloads '>=3.11' 2>/dev/null
}

# Debian leaves an environment without pip where python3-venv is missing; without its Python it is as good as none.
whole() {
  [ -x "$venv/bin/python" ] && recent "$venv/bin/python" || return 1
  command -v uv >/dev/null || "$venv/bin/python" -c 'import pip' 2>/dev/null
}

if ! whole; then
  if ! python=$(find_python); then
    echo "error: no Python 3.11 or newer found: install one (macOS: brew install python@3.12), then make setup" >&2
    exit 1
  fi
  echo "setup: $venv with $("$python" --version)"
  anew=$([ ! -f "$venv/pyvenv.cfg" ] || echo yes)  # only what is an environment is ever emptied
  if command -v uv >/dev/null; then
    uv venv --quiet --allow-existing --python "$python" "$venv"
  elif ! "$python" -m venv ${anew:+--clear} "$venv" >/dev/null; then
    echo "error: $python cannot make a virtual environment: install its venv module (Debian: python3-venv)" >&2
    exit 1
  fi
fi

if command -v uv >/dev/null; then
  uv pip install --quiet --python "$venv/bin/python" --no-deps -r requirements.lock
  uv pip install --quiet --python "$venv/bin/python" --no-deps --editable .
else
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
fi
echo "$sums" > "$ready"
