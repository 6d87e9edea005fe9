#!/usr/bin/env bash
# Several θ (WEIGHTS1, WEIGHTS2, …) in one model under a new CAPTION. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_run video.edit merge "$@"
