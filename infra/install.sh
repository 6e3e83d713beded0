#!/usr/bin/env bash
# Installs one lock file into a virtual environment. Usage: install.sh PYTHON VENV LOCK
set -euo pipefail
python=$1 venv=$2 lock=$3

fail() { printf 'headrace: %s\n' "$1" >&2; exit 1; }

[ -n "$python" ] || fail "no python3 on this machine. Install Python 3.11 or newer, or say 'make PYTHON=/path/to/python3.11 …'."
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || fail "$python is $("$python" --version 2>&1), and Headrace needs Python 3.11 or newer. Say 'make PYTHON=/path/to/python3.11 …'."
free_kib=$(df -Pk . | awk 'NR==2 {print $4}')
if [ ! -d "$venv" ] && [ "$free_kib" -lt 6291456 ]; then
  fail "$((free_kib / 1024)) MiB are free here, and the environment needs about 6 GiB with its downloads. Free some space, or clone on another disk."
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv" \
  || fail "could not create $venv. On Debian and Ubuntu the module is a package of its own: apt-get install python3-venv."

[ -x "$venv/bin/uv" ] || "$venv/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.lock \
  || fail "pip could not fetch the installer. Check the network and pip's settings (pip config list), then run the same command again."
echo "Installing $(grep -c '==' "$lock") packages from $lock …"
# Wheels only: no compiler is needed, and a package without a wheel for this machine fails here by name.
# Bytecode is compiled now, once: imports without it are 2 to 4 times slower.
"$venv/bin/uv" pip install --python "$venv/bin/python" --quiet --compile-bytecode --only-binary :all: --require-hashes -r "$lock" \
  || fail "a package could not be installed (its name is above). Headrace is tried on Linux x86_64 with Python 3.11; other machines may lack a wheel."
"$venv/bin/uv" pip install --python "$venv/bin/python" --quiet --no-build-isolation --no-deps --editable .
