#!/usr/bin/env bash
# PSNR and MS-SSIM against bytes: θ alone, θ with coded noise by several schemes, explicit latents. --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run scripts.experiments.scaling_curves "$@"
