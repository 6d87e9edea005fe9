#!/usr/bin/env bash
# Encodes a data set, each item as encode.sh does it, on this machine or on a Ray cluster. Variables: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run vov.commands.dataset "$@"
