#!/usr/bin/env bash
# Stage 2: goes on with INIT_LORA_PATH, distortion and rate; ends with OUT_DIR/NAME.vov. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_launch video.train stage2 "$@"
