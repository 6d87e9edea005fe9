#!/usr/bin/env bash
# Makes .venv from requirements.txt; does nothing when it is already up to date.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: [PYTHON=python3.12] bash scripts/setup.sh
Installs requirements.txt into .venv (about 6 GB, 3 minutes on a good line).
Needs Python 3.10-3.12 and g++ (compressai is built from source).

variable   default   meaning
PYTHON     (found)   the interpreter to use: the first of python3.12, 3.11, 3.10, python3 that fits
HELP
  exit 0
fi

fail() { echo "setup: $*" >&2; exit 1; }
fits() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

stamp=.venv/.requirements.sha256
want=$(sha256sum requirements.txt | cut -d' ' -f1)
[[ -f $stamp && $(<"$stamp") == "$want" ]] && exit 0

python=${PYTHON:-}
if [[ -z $python ]]; then
  for candidate in python3.12 python3.11 python3.10 python3; do
    if fits "$candidate"; then python=$candidate; break; fi
  done
  [[ -n $python ]] || fail "no Python 3.10-3.12 found; install one or name it: PYTHON=/path/to/python bash scripts/setup.sh"
fi
fits "$python" || fail "$python is not Python 3.10-3.12 (compressai holds numpy below 2)"
command -v g++ >/dev/null || fail "g++ is missing (compressai is built from source); install it, e.g. apt-get install g++"

[[ -x .venv/bin/python ]] && fits .venv/bin/python || "$python" -m venv --clear .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt \
  || fail "pip could not install requirements.txt (is a package index reachable? is the disk full?)"
echo "$want" > "$stamp"
