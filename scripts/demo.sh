#!/usr/bin/env bash
# Sets everything up and codes a short clip with the small model that ships with the code.
set -euo pipefail

if [[ "${1:-}" == --help ]]; then
  cat <<'HELP'
usage: bash scripts/demo.sh [VIDEO_OR_FRAMES]
Real frames in, a .vov file, decoded frames, a metric table and a picture to look at.
Without an argument: a camera move over a photograph that comes with scikit-image.

variable   default       meaning
OUT_DIR    runs/demo     gets demo.vov, demo.mp4, demo/00000.png …, result.json, comparison.png and .mp4
CAPTION    (of the clip) what the clip shows; give one with your own clip
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

export OUT_DIR=${OUT_DIR:-runs/demo} CONFIG=${CONFIG:-nano-video} NAME=demo OVERWRITE=1
if [[ -z $clip ]]; then
  clip=$OUT_DIR/original
  [[ -d $clip ]] || "$VOV_PYTHON" -m scripts.demo clip "$clip"
  export CAPTION=${CAPTION:-"an espresso in a white cup on a red saucer with a spoon, on a dark wooden table"}
else
  export CAPTION=${CAPTION:-"a short video clip"}
  # A run of another clip or caption must not be resumed.
  export RESUME=${RESUME:-never}
fi

FRAMES_DIR=$clip bash video/train/run_two_stage.sh
"$VOV_PYTHON" -m scripts.demo compare "$clip" "$OUT_DIR/demo" "$OUT_DIR/comparison"
echo "look at $OUT_DIR/comparison.png and $OUT_DIR/comparison.mp4 (left the original, right the decoded file)"
