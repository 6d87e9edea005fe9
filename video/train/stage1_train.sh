#!/usr/bin/env bash
# Stage 1: fits θ to a clip, distortion only. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_launch video.train stage1 "$@"
