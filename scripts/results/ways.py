"""What `scripts/results.sh` compares: our ways to code, each as the commands that a user types, and the other codecs.

A way is data. A new one is an entry of WAYS, and it appears in every table and curve.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

from vov import VovError

KINDS = {"clips": "short clips", "sequences": "videos of several chunks", "pictures": "pictures"}
ANCHORS = {"clips": "x264=veryslow,x265=veryslow,svtav1=2,vvc=medium", "pictures": "jpeg,webp,avif,jxl"}
ANCHORS["sequences"] = ANCHORS["clips"]
EXPLICIT = "explicit"  # quantised latents of the same autoencoder, by vov.evaluation.explicit

ENCODE = {"clips": "CONFIG=nano-video FRAMES_DIR={original} FPS={fps} SCENES=none RESIZE=crop TARGET_BYTES={bytes}"
                   "{more} OUT_DIR={out} bash video/encode.sh",
          "pictures": "CONFIG=nano-image IMAGE={original} WIDTH=0 HEIGHT=0 TARGET_BYTES={bytes}{more} "
                      "OUT_DIR={out} bash image/encode.sh"}
FIT = {"clips": "CONFIG=nano-video FRAMES_DIR={original} FPS={fps} NAME={name} CAPTION={caption} "
                "THETA_LENGTH={length} TARGET_BYTES={bytes}{more} OUT_DIR={out} bash video/train/run_two_stage.sh",
       "pictures": "CONFIG=nano-image IMAGE={original} CAPTION={caption} WIDTH=0 HEIGHT=0 RESIZE=pad "
                   "THETA_LENGTH={length} STAGE1_LR={rate:.3f} STAGE2_LR={third:.3f} STAGE1_TRAIN_STEPS=300 "
                   "STAGE2_TRAIN_STEPS=150 TARGET_BYTES={bytes}{more} OUT_DIR={out} bash image/train_multi.sh"}
SCALE = {"clips": " && WEIGHTS_DIR={out}/fit ORIGINAL_FRAMES_DIR={original} FPS={fps} SCHEME=paper "
                  "OUTPUT={out}/{name}.vov bash video/scaling/sample.sh {name} 50",
         "pictures": " && BITSTREAM={out}/fit/{name}.vov ORIGINAL={original} SCHEME=paper STEPS=50 "
                     "OUTPUT={out}/{name}.vov bash image/scale.sh"}
RATE_OF_ONE = 14.0  # the best rate of a picture's θ times √d, at 2,000 and 9,000 entries (studies/learning_rates)
SCALING_BYTES = 90  # of the paper's scaling: an index of 10 bits for each of 50 steps, and their framing
PAPER = {"clips": "NOISE=random TIMESTEPS=shifted DECODE_STEPS=50 ACCUM_STEP=2 STAGE1_LR=0.05 STAGE2_LR=0.02 "
                  "STAGE1_TRAIN_STEPS=500 STAGE2_TRAIN_STEPS=300 GRAD_CLIP=0",
         "pictures": "NOISE=random TIMESTEPS=shifted DECODE_STEPS=50 STAGE1_LR=0.1 STAGE2_LR=0.05"}
PAPER = {kind: f"{settings} ROUNDING=ste" for kind, settings in PAPER.items()}


@dataclass(frozen=True)
class Way:
    """One of our ways to code.

    Attributes:
        title: for tables and legends.
        commands: {kind of original: the command, with {original}, {out}, {bytes}, … to fill in}.
        more: {kind: further variables}.
        quick: which of the sizes `quick` takes, counted from 0; none: leaves it out.
        few: variables of a fit that `quick` shortens, "" for none; `short` says so in tables.
        less: bytes of the file that a later command of this way adds.
        shared: the setting that names a collection's θ; without it this way is left out.
    """

    title: str
    commands: dict[str, str]
    more: dict[str, str] = field(default_factory=dict)
    quick: dict[str, tuple[int, ...]] = field(default_factory=dict)
    few: str = ""
    short: str = ""
    less: int = 0
    shared: bool = False


SEQUENCE = {"sequences": ENCODE["clips"].replace("SCENES=none ", "")}
WAYS = {
    "frozen": Way("coded noise, frozen model", ENCODE, quick={"clips": (0, 1, 2, 3), "pictures": (0, 1, 2)}),
    "independent": Way("coded noise, independent chunks", SEQUENCE, {"sequences": "KEY_EVERY=1"},
                       quick={"sequences": (1,)}),
    "known": Way("coded noise, known frames", SEQUENCE, quick={"sequences": (1,)}),
    "scene": Way("coded noise, known frames, a θ for each scene", SEQUENCE, {"sequences": "SCENE_THETA=1024"}),
    "collection": Way("coded noise over a collection's θ", ENCODE, shared=True),
    "anchored": Way("anchored θ, one step", FIT, quick={"clips": (-1,)},
                    few="STAGE1_TRAIN_STEPS=150 STAGE2_TRAIN_STEPS=100", short="150 + 100 steps of the fit only"),
    "random": Way("the paper's recipe", FIT, PAPER),
    "scaled": Way("the paper's recipe with its scaling", {
        kind: FIT[kind].replace("OUT_DIR={out}", "OUT_DIR={out}/fit") + SCALE[kind] for kind in FIT}, PAPER,
                  less=SCALING_BYTES),
}


def commands(way: str, kind: str, values: dict[str, str], quick: bool) -> str:
    """The command of a way, filled in; values: name, original, out, bytes, fps, caption, and more: further settings."""
    one = WAYS[way]
    words = [one.more.get(kind, ""), one.few if quick else "", values.get("more", "")]
    more = "".join(f" {word}" for word in words if word)
    size = int(values["bytes"]) - one.less
    quoted = {name: shlex.quote(value) for name, value in values.items()}
    length = max(256, 2 * size)  # of θ: 4 bits an entry
    rate = RATE_OF_ONE / length**0.5
    changed = {"more": more, "bytes": size, "length": length, "rate": rate, "third": rate / 3}
    return one.commands[kind].format(**quoted | changed)


def title(way: str, quick: bool = False) -> str:
    """A way's or a codec's name for tables."""
    from vov.evaluation.anchors import CODECS

    if way in WAYS:
        return WAYS[way].title + (f" ({WAYS[way].short})" if quick and WAYS[way].few else "")
    return "quantised latents, no θ" if way == EXPLICIT else CODECS[way].title


def chosen(extent: str, kind: str, named: str, shared: str) -> list[str]:
    """Our ways for a kind: those named (`way`, or `kind:way`), else all of the extent; of a collection only where there
    is one."""
    words = [word.strip().rpartition(":")[::2] for word in named.split(",") if word.strip()]
    for of, name in words:
        if (of and of not in KINDS) or name not in (*WAYS, EXPLICIT, "none"):
            raise VovError(f"WAYS={named}: no way called {of + ':' * bool(of)}{name}; there are {', '.join(WAYS)}, "
                           f"{EXPLICIT}, none; for one kind alone, {':…, '.join(KINDS)}:…")
    wanted = [name for of, name in words if of in ("", kind)]
    return [name for name, way in WAYS.items() if kind in way.commands and (not way.shared or shared)
            and (name in wanted if words else extent == "full" or kind in way.quick or way.shared)]


def sizes_of(way: str, kind: str, sizes: list[int], extent: str) -> list[int]:
    """The sizes at which a way is measured; `quick` takes some."""
    picks = WAYS[way].quick.get(kind, range(len(sizes)))
    return sizes if extent == "full" else sorted({sizes[min(pick, len(sizes) - 1)] for pick in picks})


def decoded_path(kind: str, folder: Path, name: str) -> Path:
    """Where the commands put what the file decodes to."""
    return folder / (f"{name}.png" if kind == "pictures" else name)
