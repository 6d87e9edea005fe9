#!/usr/bin/env bash
# Fetches the foundation models and the weights of the metrics, with resume and checksums. Variables: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run vov.commands.fetch "$@"
