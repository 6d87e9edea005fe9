#!/usr/bin/env bash
# Decodes a .vov file into frames and a video. Needs the file and the frozen model, nothing else.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_run video.reconstruct "$@"
