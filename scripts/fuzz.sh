#!/usr/bin/env bash
# Tries hostile inputs on everything that reads what users and strangers wrote.
set -euo pipefail
if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: bash scripts/fuzz.sh [--cases 100000] [--only WORD] [--seed 0] [--out FILE] [--reasons]
Structure-aware fuzzing with Hypothesis, checksums mended, against tiny models. Every input is accepted, or refused in
one line with nothing written, within 10 s and 1 GiB. About 30 minutes on one idle core for 100,000 inputs.

--cases    inputs in all, shared out among the targets
--only     targets whose name contains this
--seed     first seed; other seeds try other inputs
--out      file for the counts and failures, a JSON line for each target
--reasons  print why inputs were refused
HELP
  exit 0
fi
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$VOV_ROOT"
vov_run tests.fuzzing "$@"
