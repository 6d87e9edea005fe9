#!/usr/bin/env bash
# Many fits over a grid of settings in one process: bytes and quality of each, as a table and JSONL.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
vov_run scripts.experiments.sweep "$@"
