# shellcheck shell=bash
# Sourced by every entry script: finds the repository, its Python and how to launch one or more processes.

VOV_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$VOV_ROOT${PYTHONPATH:+:$PYTHONPATH}"
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}
# Threads that wait for work sleep, after a moment of spinning: two runs on one machine would else stop each
# other, and without any spinning one run alone would lose a fifth.
if [[ -z "${OMP_WAIT_POLICY:-}" ]]; then export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=${GOMP_SPINCOUNT:-10000}; fi

# The interpreter: VOV_PYTHON, else .venv, else python3 (a GPU node's own environment).
if [[ -z "${VOV_PYTHON:-}" ]]; then
  if [[ -x "$VOV_ROOT/.venv/bin/python" ]]; then VOV_PYTHON="$VOV_ROOT/.venv/bin/python"; else VOV_PYTHON=python3; fi
fi

# vov_ready: ends with one line when that interpreter lacks a package that every command needs.
vov_ready() {
  local missing setup=scripts/setup.sh
  [[ "$PWD" == "$VOV_ROOT" ]] || setup=$VOV_ROOT/$setup
  missing=$("$VOV_PYTHON" -c '
from importlib.util import find_spec
needed = "yaml", "numpy", "torch", "diffusers", "transformers", "safetensors", "PIL", "tqdm"
print(*(name for name in needed if find_spec(name) is None))' 2>/dev/null) || missing="?"
  [[ -n "$missing" ]] || return 0
  [[ "$missing" == "?" ]] && missing="does not run" || missing="has no ${missing%% *}"
  echo "error: no environment yet ($VOV_PYTHON $missing); run: bash $setup" >&2
  exit 1
}

# vov_run MODULE [flags]: one process.
vov_run() { vov_ready; exec "$VOV_PYTHON" -m "$@"; }

# vov_launch MODULE [flags]: NUM_GPUS processes, on NNODES machines; vov/runtime/launch.py says how.
vov_launch() { vov_ready; exec "$VOV_PYTHON" -m vov.runtime.launch "$@"; }

# vov_variable NAME DEFAULT MEANING: a variable that only an entry script has, for --help.
vov_variable() { export VOV_HELP="${VOV_HELP:+$VOV_HELP$'\n'}$1"$'\t'"$2"$'\t'"$3"; }
