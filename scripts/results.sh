#!/usr/bin/env bash
# All results in one command: bash scripts/results.sh [quick|full]. Variables and defaults: --help.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
case "${1:-}" in quick | full) export EXTENT=$1; shift ;; esac
vov_run scripts.results "$@"
