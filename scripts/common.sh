# shellcheck shell=bash
# Sourced by every entry script: finds the repository, its Python and how to launch one or more processes.

VOV_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export PYTHONPATH="$VOV_ROOT${PYTHONPATH:+:$PYTHONPATH}"
export TOKENIZERS_PARALLELISM=${TOKENIZERS_PARALLELISM:-false}

# The interpreter: VOV_PYTHON, else .venv, else python3 (a GPU node's own environment).
if [[ -z "${VOV_PYTHON:-}" ]]; then
  if [[ -x "$VOV_ROOT/.venv/bin/python" ]]; then VOV_PYTHON="$VOV_ROOT/.venv/bin/python"; else VOV_PYTHON=python3; fi
fi

# vov_run MODULE [flags]: one process.
vov_run() { exec "$VOV_PYTHON" -m "$@"; }

# vov_launch MODULE [flags]: NUM_GPUS processes, no more than there are GPUs.
# Without a GPU: one process, or NUM_GPUS gloo processes when NUM_GPUS is set by the user.
vov_launch() {
  case " $* " in *" --help "*|*" -h "*) vov_run "$@" ;; esac
  local gpus processes
  gpus=$("$VOV_PYTHON" -c 'import torch; print(torch.cuda.device_count())' 2>/dev/null || echo 0)
  if (( gpus > 0 )); then
    processes=${NUM_GPUS:-2}
    if (( processes > gpus )); then
      echo "NUM_GPUS=$processes but this machine has $gpus: using $gpus" >&2
      processes=$gpus
    fi
  else
    processes=${NUM_GPUS:-1}
  fi
  if (( processes > 1 )); then
    export VOV_RANK=${RANK:-}  # torchrun sets RANK to the number of the process
    if [[ -n "${MASTER_PORT:-}" ]]; then set -- --master-port "$MASTER_PORT" -m "$@"; else set -- --standalone -m "$@"; fi
    exec "$VOV_PYTHON" -m torch.distributed.run --nproc-per-node "$processes" "$@"
  fi
  vov_run "$@"
}
