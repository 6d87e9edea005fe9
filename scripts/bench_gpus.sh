#!/usr/bin/env bash
# How a random-noise fit scales: a step of the same samples on one GPU, then shared by NUM_GPUS of them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
if [[ " $* " != *" --help "* ]]; then
  NUM_GPUS=1 "${BASH:-bash}" -c 'source "$0"; vov_launch scripts.experiments.bench_gpus "$@"' "$VOV_ROOT/scripts/common.sh" "$@"
fi
vov_launch scripts.experiments.bench_gpus "$@"
