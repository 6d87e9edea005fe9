#!/usr/bin/env bash
# Speed and memory: bash scripts/bench.sh fit|noise|parts. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case "${1:-}" in
  fit | noise | parts) bench=$1; shift ;;
  --help | -h)
    vov_ready
    for bench in fit noise parts; do "$VOV_PYTHON" -m "scripts.bench.$bench" --help; done
    exit 0 ;;
  *) echo "usage: bash scripts/bench.sh fit|noise|parts [--flag value …]; --help explains them" >&2; exit 2 ;;
esac
if [[ $bench == fit && ${NUM_GPUS:-1} -gt 1 && " $* " != *" --help "* ]]; then
  (export NUM_GPUS=1; vov_launch scripts.bench.fit --shared 1 "$@")  # for comparison: the same step in one process
  vov_launch scripts.bench.fit --shared 1 "$@"
fi
vov_run "scripts.bench.$bench" "$@"
