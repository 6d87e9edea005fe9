#!/usr/bin/env bash
# Kills, full disks, read-only and vanishing folders; every run must end in the bytes of an undisturbed one.
set -euo pipefail
if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: bash scripts/torture.sh [--kills 200] [--typed 10] [--full 40] [--others 4] [--only WORD] [--out runs/torture]
Runs fits, noise search, decoding and evaluation with tiny models, disturbs them, and gives the same command again
until it is done: 20 minutes on 2 idle cores. It can itself be stopped and given
again.

--kills    SIGKILLs at random moments, over all commands
--typed    commands that bash starts, killed and typed again
--full     sizes of a disk that becomes full (a small tmpfs, which takes root; else a limit on the size of files)
--others   read-only and vanishing folders, of each command
--only     commands whose name contains this
--out      folder for trials.jsonl (a line a trial) and scratch
HELP
  exit 0
fi
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$VOV_ROOT"
vov_run tests.torture "$@"
