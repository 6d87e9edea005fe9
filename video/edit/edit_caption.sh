#!/usr/bin/env bash
# The θ of a fit (WEIGHTS) under a new CAPTION. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_run video.edit caption "$@"
