#!/usr/bin/env bash
# Speed and memory of fitting and decoding at the true model size, with random weights.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run scripts.experiments.bench "$@"
