#!/usr/bin/env bash
# Pretrains models/nano-video and models/nano-image from a media folder, in pieces that can each be resumed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: MEDIA=folder bash scripts/pretrain_nano.sh [flags of scripts/pretrain_nano.py]
Packs the media, trains the shared VAE, then both transformers; each step can be run alone. A GPU is needed in earnest;
--tiny makes a dry run on a CPU.

variable      default             meaning
MEDIA         (needed)            the pretraining media, laid out as scripts/nano/captions.tsv names them
PACK          runs/nano-pack      where the packed media go (about 42 MiB)
OUT           models              where trained weights go; RESUME reads them here too
STEPS         "prepare vae dit"   which steps, in this order
FAMILIES      "video image"       which transformers
SECONDS_VAE   600                 wall-clock budget of the VAE's piece
SECONDS_DIT   480                 wall-clock budget of each transformer's piece
RESUME        0                   1: go on from the weights in OUT
SEED          20261123            every random number comes from it
DEVICE        (cuda if any)       torch device
PYTHON        .venv/bin/python    interpreter

STEPS=vae RESUME=1 … --decoder-only trains the VAE's decoder alone: latents and transformers stay as they are.
The cards are measured with: python scripts/pretrain_nano.py card --media folder-with-test-and-pretrain --pack PACK
HELP
  exit 0
fi

VOV_PYTHON=${PYTHON:-${VOV_PYTHON:-}}
source scripts/common.sh
vov_ready
PACK=${PACK:-runs/nano-pack} OUT=${OUT:-models} PYTHON=$VOV_PYTHON
common=(--pack "$PACK" --models "$OUT" --out "$OUT" --seed "${SEED:-20261123}")
[[ -n "${DEVICE:-}" ]] && common+=(--device "$DEVICE")
[[ "${RESUME:-0}" == 1 ]] && common+=(--resume)

for step in ${STEPS:-prepare vae dit}; do
  case $step in
    prepare) "$PYTHON" scripts/pretrain_nano.py prepare --media "${MEDIA:?name the media folder: MEDIA=...}" --pack "$PACK" "$@" ;;
    vae) "$PYTHON" scripts/pretrain_nano.py vae "${common[@]}" --seconds "${SECONDS_VAE:-600}" "$@" ;;
    dit) for family in ${FAMILIES:-video image}; do
           "$PYTHON" scripts/pretrain_nano.py dit --family "$family" "${common[@]}" --seconds "${SECONDS_DIT:-480}" "$@"
         done ;;
    *) echo "pretrain_nano: unknown step '$step'; known: prepare vae dit" >&2; exit 2 ;;
  esac
done
