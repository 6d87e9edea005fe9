#!/usr/bin/env bash
# Metrics, anchors and a report of decoded clips. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
vov_run video.evaluate "$@"
