#!/usr/bin/env bash
# Fits one θ to one or many captioned pictures; ends with OUT_DIR/NAME.vov, its decode and result.json.
# Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
export OUT_DIR=${OUT_DIR:-./checkpoints/run_$(date +%Y%m%d_%H%M%S)}  # one date for all processes
vov_variable STAGE1_LR LR "of stage 1; STAGE1_ before any variable sets it for this stage alone"
vov_variable STAGE2_LR LR "of stage 2; STAGE2_ before any variable sets it for this stage alone"
vov_launch image.train "$@"
