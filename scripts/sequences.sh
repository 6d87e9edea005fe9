#!/usr/bin/env bash
# Ways to code videos of many chunks (known frames, a θ for each scene) beside conventional codecs, at equal bytes. --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run scripts.results.sequences "$@"
