#!/usr/bin/env bash
# Sets up .venv if needed and runs the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: bash scripts/test.sh [--slow] [pytest arguments]
Runs the linter, the type checker and the tests (under 5 minutes on 2 cores).

--slow      also the tests that take minutes, need a browser or the media that are not in the repository
MEDIA       folder with test media for the slow tests (default ../shared/media)
HELP
  exit 0
fi

bash scripts/setup.sh
.venv/bin/ruff check .
.venv/bin/python -m mypy vov
if [[ "${1:-}" == --slow ]]; then
  shift
  set -- -m "slow or not slow" "$@"
fi
# A cache of its own: tests must neither read nor fill the user's.
VOV_CACHE=$(mktemp -d)
export VOV_CACHE
trap 'rm -rf "$VOV_CACHE"' EXIT
# One process a core, each with its share of the threads; a file's tests stay together, for they share fixtures.
workers=$(nproc)
(( workers <= 8 )) || workers=8
.venv/bin/python -m pytest -n "$workers" --dist loadfile "$@"
