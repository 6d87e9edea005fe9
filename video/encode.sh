#!/usr/bin/env bash
# Codes a video of any length with the frozen model and coded noise; ends with OUT_DIR/NAME.vov and its decode.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
vov_launch video.encode "$@"
