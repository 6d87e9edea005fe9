#!/usr/bin/env bash
# Codes a folder of captioned pictures and the same pictures with JPEG, WebP and AVIF at the same bytes.
# Variables and defaults: --help; every variable of image/train_multi.sh works too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run scripts.experiments.kodak "$@"
