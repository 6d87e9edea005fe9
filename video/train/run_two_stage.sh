#!/usr/bin/env bash
# Both stages, the .vov file, its decode and result.json. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_launch video.train two_stage "$@"
