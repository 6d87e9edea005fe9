#!/usr/bin/env bash
# Writes the θ of a .vov file, checkpoint or PEFT folder as a LoRA file, a PEFT adapter or a reference checkpoint.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run vov.commands.export "$@"
