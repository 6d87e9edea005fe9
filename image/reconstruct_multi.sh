#!/usr/bin/env bash
# Decodes BITSTREAM=x.vov (nothing else is needed), or a checkpoint INIT_LORA_PATH with the captions of
# DESCRIPTION_FILE. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/common.sh"
vov_run image.reconstruct "$@"
