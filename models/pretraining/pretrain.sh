#!/usr/bin/env bash
# Pretrains models/nano-video and models/nano-image from a media folder, in pieces that can each be resumed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: MEDIA=folder bash models/pretraining/pretrain.sh [flags of python -m models.pretraining]
Packs the media, trains each model's VAE, then its transformer; each step can be run alone. A GPU is needed in earnest;
--tiny makes a dry run on a CPU. With two GPUs each family has its own; with GPUS=2 and one family, its transformer is
trained on both.

variable      default             meaning
MEDIA         (needed)            the pretraining media, laid out as models/pretraining/captions.tsv names them
PACK          runs/nano-pack      where the packed media go (about 140 MiB)
OUT           models              where trained weights go; REFINE reads them here too
STATE         runs/nano-state     where running pieces keep what they need to go on (up to 200 MB each)
STEPS         "prepare vae dit"   which steps, in this order
FAMILIES      "video image"       which models
SECONDS_VAE   480                 wall-clock budget of each VAE's piece
SECONDS_DIT   540                 wall-clock budget of each transformer's piece
RESUME        0                   1: go on with pieces that were killed, from STATE
REFINE        0                   1: new pieces from the finished weights in OUT, at lower rates
GPUS          (all there are)     processes at a time
SEED          20261125            every random number comes from it
DEVICE        (cuda if any)       torch device
PYTHON        .venv/bin/python    interpreter

STEPS=vae REFINE=1 … --decoder-only trains the VAEs' decoders alone: latents and transformers stay as they are; with
--coded too, on latents as coded noise gives them back. A VAE trained further otherwise has other latents: its
transformer must be trained anew. models/pretraining/LOG.md tells where the next generation stands.
The cards: python -m models.pretraining card --media folder-with-test-and-pretrain --pack PACK
HELP
  exit 0
fi

VOV_PYTHON=${PYTHON:-${VOV_PYTHON:-}}
source scripts/common.sh
vov_ready
PACK=${PACK:-runs/nano-pack} OUT=${OUT:-models} PYTHON=$VOV_PYTHON FAMILIES=${FAMILIES:-video image}
common=(--pack "$PACK" --models "$OUT" --out "$OUT" --state "${STATE:-runs/nano-state}" --seed "${SEED:-20261125}")
[[ -n "${DEVICE:-}" ]] && common+=(--device "$DEVICE")
[[ "${RESUME:-0}" == 1 ]] && common+=(--resume)
[[ "${REFINE:-0}" == 1 ]] && common+=(--refine)
GPUS=${GPUS:-$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')}
read -ra families <<< "$FAMILIES"

# each STEP SECONDS [flags]: the step for every family, on two GPUs at once where there are two of both.
each() {
  local step=$1 seconds=$2 number=0 pids=() failed=0
  shift 2
  for family in "${families[@]}"; do
    local command=("$PYTHON" -m models.pretraining)
    if (( ${#families[@]} == 1 && GPUS > 1 )) && [[ "$step" == dit ]]; then
      command=("$PYTHON" -m torch.distributed.run --standalone --nproc-per-node "$GPUS" -m models.pretraining)
    fi
    command+=("$step" --family "$family" "${common[@]}" --seconds "$seconds" "$@")
    if (( ${#families[@]} > 1 && GPUS > 1 )); then
      CUDA_VISIBLE_DEVICES=$((number++)) "${command[@]}" & pids+=($!)
    else
      "${command[@]}"
    fi
  done
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  return "$failed"
}

for step in ${STEPS:-prepare vae dit}; do
  case $step in
    prepare) "$PYTHON" -m models.pretraining prepare --media "${MEDIA:?name the media folder: MEDIA=...}" --pack "$PACK" ;;
    vae) each vae "${SECONDS_VAE:-480}" "$@" ;;
    dit) each dit "${SECONDS_DIT:-540}" "$@" ;;
    *) echo "pretraining: unknown step '$step'; known: prepare vae dit" >&2; exit 2 ;;
  esac
done
