#!/usr/bin/env bash
# Fits one θ to a collection of pictures or clips: NAME.vovd, for COLLECTION= of encode.sh. Variables: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_launch vov.commands.collection "$@"
