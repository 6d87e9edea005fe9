#!/usr/bin/env bash
# Gives fitted pictures coded noise (inference-time scaling). Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
vov_run image.scale "$@"
