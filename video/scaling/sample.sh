#!/usr/bin/env bash
# sample.sh NAME [STEPS]: gives a fitted clip coded noise (inference-time scaling). Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../scripts/common.sh"
if [[ $# -gt 0 && "$1" != -* ]]; then export NAME=$1; shift; fi
if [[ $# -gt 0 && "$1" != -* ]]; then export STEPS=$1; shift; fi
vov_run video.scale "$@"
