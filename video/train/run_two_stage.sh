#!/usr/bin/env bash
# Both stages, the .vov file, its decode and result.json. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_variable STAGE1_OUT_DIR OUT_DIR/stage1 "folder of stage 1; STAGE1_ before any variable sets it for this stage alone"
vov_variable STAGE2_OUT_DIR OUT_DIR/stage2 "folder of stage 2; STAGE2_ before any variable sets it for this stage alone"
vov_launch video.train two_stage "$@"
