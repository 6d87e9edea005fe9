"""The variables of scripts/encode_dataset.sh: those of encode.sh, and which items on which machines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, make_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import image.encode
import video.encode
from vov import VovError
from vov.config import (
    cli,
    environment_names,
    fields_of,
    keys_of,
    load,
    option,
    override,
    preset_path,
    variables,
)
from vov.config.retired import current_preset

GETS = "gets NAME/ for every item, results.csv and .json, failed.csv, report/ (required)"
kept: dict[str, Any] = {}  # the model that this process has loaded


class KeptModel:
    """Loads a model once for all items that want the same."""

    def load(self, kind: type, *made: Any) -> Any:
        """As `ModelOptions.load`."""
        wanted = (kind.__name__, self.model_id, self.cache_dir, self.device, self.precision(), self.offload)
        if kept.get("wanted") != wanted:
            kept.clear()  # its memory first
            kept.update(model=super().load(kind, *made), wanted=wanted)
        kept["model"].collection_dir = self.collection
        return kept["model"]


@dataclass(frozen=True)
class SetOptions:
    """Which items, and on what."""

    manifest: str = option("", "a CSV file with a column path, and if wanted caption and any variable of encode.sh in "
                           "lower case; or a folder of pictures and clips (required)", identity=False)
    family: str = option("", "image or video: what all items are coded as, and a folder is searched for; empty: each "
                         "as what its file is", choices=("", "image", "video"), identity=False)
    ray_address: str = option("", "host:port of a Ray cluster to join; empty: Ray is started on this machine",
                              identity=False)
    workers: int = option(0, "processes that encode, each with a model of its own; 0: as many as there are GPUs, or "
                          "CPUs / CPUS", minimum=0, identity=False)
    cpus: float = option(1.0, "CPU cores of a worker", minimum=0.1, identity=False)
    gpus: float = option(-1.0, "GPUs of a worker, parts allowed; 0: it sees none; -1: 1 where this machine has GPUs or "
                         "RAY_ADDRESS is set, and DEVICE is not cpu", minimum=-1, identity=False)
    retries: int = option(2, "how often an item is tried again whose process died", minimum=0, identity=False)
    split_from: int = option(4, "a video with at least so many groups of chunks is shared out, each group a task; a "
                             "group begins at a scene and by KEY_EVERY; 0: never", minimum=0, identity=False)
    report: bool = option(True, "make report.html with PSNR and MS-SSIM at the end", identity=False, rare=True)


@dataclass(frozen=True)
class VideoSet(KeptModel, SetOptions, video.encode.Encode):
    """A set of videos; the other variables are those of video/encode.sh."""

    UNUSED = ("frames_dir",)

    out_dir: str = override(video.encode.Encode, "out_dir", "", help=GETS)


@dataclass(frozen=True)
class ImageSet(KeptModel, SetOptions, image.encode.Encode):
    """A set of pictures; the other variables are those of image/encode.sh."""

    UNUSED = ("image", "description_file", "caption_start", "caption_end", "data_root")

    out_dir: str = override(image.encode.Encode, "out_dir", "", help=GETS)


def _usual_video() -> str:
    from vov.model.wan import WanBackbone

    return WanBackbone.usual_model


def _usual_image() -> str:
    from vov.model.qwen import QwenBackbone

    return QwenBackbone.usual_model


USUAL = {"video": _usual_video, "image": _usual_image}  # --help needs no torch
KINDS = {"video": (VideoSet, video.encode.main, "frames_dir"), "image": (ImageSet, image.encode.main, "image")}


WORDS = {"video": ("video", "wan"), "image": ("image",)}  # in the names of presets
MANAGED = ("frames_dir", "image", "out_dir", "name", "caption", "overwrite", "description_file", "caption_start",
           "caption_end", "data_root", "config")  # what the set decides for each item, or what a preset has set


def _both() -> type:
    """A class with the fields of both trees; a field of both is the image tree's, which allows more."""
    fields = {name: (name, get_type_hints(cls)[name], field) for cls in (VideoSet, ImageSet)
              for name, field in fields_of(cls).items()}
    return make_dataclass("MixedSet", fields.values(), frozen=True, namespace={
        "UNUSED": VideoSet.UNUSED + ImageSet.UNUSED + image.encode.Encode.UNUSED,
        "__doc__": "A set of pictures and videos: what is said for all; `settings_of` says what holds for an item."})


MixedSet = _both()
OWN = (*variables(SetOptions), "out_dir", "caption", "config", "overwrite")  # what the set is told, before its items


def class_of(arguments: list[str], environ: Mapping[str, str]) -> type:
    """What the command reads: the settings of FAMILY's tree, or of both."""
    flags = [value for flag, value in pairwise(arguments) if flag == "--family"]
    family = (flags or [environ.get("FAMILY", "")])[-1]
    return KINDS[family][0] if family in KINDS else MixedSet  # what is neither is refused with the settings


def columns_of(tree: str) -> set[str]:
    """The names of settings that a row of the manifest may have."""
    managed = {*MANAGED, *fields_of(SetOptions)} - {"config"}
    return {name for name, field in keys_of(KINDS[tree][0]).items() if field not in managed}


def settings_of(tree: str, family: str, given: Mapping[str, Any], environ: Mapping[str, str],
                cells: Mapping[str, str] | None = None) -> VideoSet | ImageSet:
    """The settings of an item of a tree: cells of its row > VIDEO_X or IMAGE_X > flags > X > preset > defaults.

    Args:
        family: FAMILY; without one, CONFIG is for its own tree, and the other gets `counterpart`.
        given: flags of the command line, by field name.
    Raises:
        VovError: a value does not fit, or a cell is no setting of the tree.
    """
    cells = cells or {}
    if strange := sorted(set(cells) - columns_of(tree)):
        raise VovError(f"{strange[0].upper()} is no setting of {tree}/encode.sh; leave the cell empty")
    prefix, cls = f"{tree.upper()}_", KINDS[tree][0]
    own = {name.removeprefix(prefix): value for name, value in environ.items() if name.startswith(prefix) and value}
    fields, keys = fields_of(cls), keys_of(cls)
    said = {name: value for name, value in given.items()
            if name in fields and not own.keys() & set(environment_names(fields[name]))}
    config = said.pop("config", "") or environ.get("CONFIG", "")
    config = own.get("CONFIG", "") or (config if family else counterpart(tree, config))
    named = {"config": config} if config else {}
    of_row = {keys[name]: value for name, value in cells.items()}
    return load(cls, said | named | of_row, {**environ, "CONFIG": ""} | own, "encode")


def counterpart(tree: str, preset: str) -> str:
    """The preset, if it is the tree's or nobody's; of another tree's the one of the same name, nano-image for
    nano-video; "", for the defaults, where there is none."""
    preset = current_preset(preset, "encode")
    name = Path(preset).stem
    trees = [tree for tree, words in WORDS.items() if any(word in name for word in words)]
    if not trees or tree in trees:
        return preset
    twin = name.replace(trees[0], tree)
    try:
        preset_path(twin)
    except VovError:
        return ""
    return twin


def help_text(usage: str, given: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The variables of a set, with the values that they have now; those of its items are encode.sh's own."""
    now, fields = load(MixedSet, given, environ, "encode"), fields_of(MixedSet)
    return "\n".join([
        f"usage: {usage}", "", "Variables of the set (environment, or --flags in lower case), their value, meaning:",
        *cli.table([now], {name: fields[name] for name in OWN}), "", "Every variable of video/encode.sh and of "
        "image/encode.sh works too; their --help lists them. VIDEO_ or IMAGE_", "before one sets it for videos or "
        "pictures alone (environment only)."])
