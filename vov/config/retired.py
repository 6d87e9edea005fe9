"""Names that were settings once: whoever still types one is told so, instead of wondering why nothing changes."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from functools import cache
from pathlib import Path

from vov import VovError

log = logging.getLogger(__name__)
PREFIX = re.compile("^(STAGE[12]|IMAGE|VIDEO)_")  # sets a variable for a stage, or for a part of a data set
RETIRED = {
    "ATOMS": "TARGET_BYTES or NOISE_BYTES say how many there are",
    "BD_METHOD": "BD-rates are interpolated by PCHIP",
    "BITS": "SCHEME=paper takes the paper's 10",
    "BLOCK": "noise is coded for the whole latent",
    "BRANCH": "the bits of an atom follow the size of the file",
    "CANDIDATES": "atoms are on a trellis; SCHEME=paper takes the paper's candidates",
    "CHOICE": "the best candidate is taken",
    "CODED_STEPS": "every step is coded",
    "ETA": "noise is as strong as the posterior's",
    "FIRST_STEP": "every step is coded",
    "LOOKAHEAD_UNTIL": "SCORE holds for all steps; LOOKAHEAD_EVERY saves time",
    "LORA_KEYS": "a LoRA has names that ComfyUI and diffusers both know",
    "RESUME": "a fit goes on from the checkpoint in OUT_DIR; remove that to start over",
    "SCENE_BATCH": "a step sees 8 windows of a scene",
    "SCENE_BITS": "a scene's θ takes 4 bits an entry",
    "SCENE_WINDOWS": "a scene's θ is fitted to 32 windows at most",
    "SHORTEST_SCENE": "a detected scene has half a chunk or more; SCENES takes a file with scenes of any length",
    "START_LEVEL": "sampling starts from pure noise",
    "THETA_INIT": "θ starts within ±0.02",
    "THETA_STEPS": "θ adapts the model in every step",
    "WEIGHT_DECAY": "it is the paper's, 1e-4",
}


MERGED = {f"{name}-noise": (name, medium) for name, medium in (  # presets that were for coded noise alone
    ("nano-image", "image"), ("nano-video", "video"), ("qwen-image", "image"), ("wan2.1-1.3b", "video"),
    ("wan2.1-14b", "video"), ("wan2.2-ti2v-5b", "video"))}


def current_preset(preset: str, stage: str) -> str:
    """The preset itself, or the one that has taken it in, which is said.

    Raises VovError for a fit (a `stage` that is not "encode"): such fits only made a file for noise to be added to.
    """
    if preset not in MERGED:
        return preset
    name, medium = MERGED[preset]
    if stage != "encode":
        raise VovError(f"CONFIG={preset}: noise is coded without a fit; run CONFIG={name} with {medium}/encode.sh")
    say(f"CONFIG={preset} is CONFIG={name} now, whose section encode has its settings")
    return name


def retired_lines(environ: Mapping[str, str], own: Collection[str], rare: Collection[str],
                  unused: Collection[str]) -> list[str]:
    """A line for every variable that is set in vain, or that has another way to be set now.

    Args:
        own: the variables of the command.
        rare: names of its settings that are parts of a recipe, see `fields`.
        unused: names of settings that have no effect in this command.
    """
    lines = []
    for name, value in environ.items():
        bare = PREFIX.sub("", name)
        if not value or bare in own:
            continue
        if bare in rare:
            how = f"write --set {bare.lower()}={value:.40}, or put it into a preset" if bare == name else (
                f"put {bare.lower()} into the {name[:len(name) - len(bare) - 1].lower()} section of a preset")
            lines.append(f"{name} is read, but is a part of recipes now: {how}")
        elif bare in unused:
            lines.append(f"{name} has no effect in this command")
        elif bare in RETIRED:
            lines.append(f"{name} is no longer a variable: {RETIRED[bare]}")
    return lines


def retired_key(key: object, path: Path) -> bool:
    """Whether a preset's key is such a name; says so."""
    why = RETIRED.get(str(key).upper(), "")
    if why:
        say(f"{path}: {key} is no longer a setting: {why}")
    return bool(why)


@cache
def say(line: str) -> None:
    """Logs a line, once: a preset is read for each stage."""
    log.warning("%s", line)
