#!/usr/bin/env bash
# Sets everything up and codes a short clip with the small model that ships with the code.
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: bash scripts/demo.sh [VIDEO_OR_FRAMES]
Real frames in, a .vov file, decoded frames, a metric table and a picture to look at.
Without an argument: a camera move over a photograph that comes with scikit-image.

variable   default       meaning
OUT_DIR    runs/demo     gets demo.vov, demo.mp4, demo/00000.png …, result.json; the same of noise.vov in noise;
                         comparison.png and .mp4
CAPTION    (of the clip) what the clip shows; give one with your own clip
DEMO_NOISE 1             0: only θ; 1: also a file of the frozen model and coded noise by video/encode.sh, of
                         2,000 bytes where no target is set; with nano-video
CONFIG     nano-video    preset; every other variable of video/train/run_two_stage.sh works too
HELP
  exit 0
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
clip=${1:-}
[[ -z $clip ]] || clip=$(realpath -m -- "$clip")
bash "$root/scripts/setup.sh"
source "$root/scripts/common.sh"
cd "$root"

export OUT_DIR=${OUT_DIR:-runs/demo} CONFIG=${CONFIG:-nano-video} OVERWRITE=1
if [[ -z $clip ]]; then
  clip=$OUT_DIR/original
  [[ -d $clip ]] || "$VOV_PYTHON" -m scripts.demo clip "$clip"
  export CAPTION=${CAPTION:-"an espresso in a white cup on a red saucer with a spoon, on a dark wooden table"}
else
  export CAPTION=${CAPTION:-"a short video clip"}
fi

echo "== a fitted θ"
INPUT=$clip NAME=demo bash video/train/run_two_stage.sh
decoded=("$OUT_DIR/demo")
legend="the original, θ"
if [[ $CONFIG == nano-video && ${DEMO_NOISE:-1} == 1 ]]; then
  echo "== the frozen model and coded noise"
  [[ -n "${TARGET_BPP:-}${TARGET_KBPS:-}${TARGET_PSNR:-}" ]] || export TARGET_BYTES=${TARGET_BYTES:-2000}
  # The frames that the fit has: one chunk, cropped. VOV_SPELLING=0: what is set for the fit would be named as unknown
  # to this command.
  INPUT=$clip NAME=noise OUT_DIR=$OUT_DIR/noise FRAMES=${CHUNK_FRAMES:-${NUM_FRAMES:-17}} SCENES=none AUDIO=none \
    RESIZE=${RESIZE:-crop} VOV_SPELLING=0 bash video/encode.sh
  decoded+=("$OUT_DIR/noise/noise")
  legend+=", coded noise"
fi
"$VOV_PYTHON" -m scripts.demo compare "$clip" "$OUT_DIR/comparison" "${decoded[@]}"
echo "look at $OUT_DIR/comparison.png and $OUT_DIR/comparison.mp4 (from the left: $legend)"
