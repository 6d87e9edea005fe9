"""The variables of scripts/encode_dataset.sh: those of encode.sh, and which items on which machines."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import image.encode
import video.encode
from vov.config import option, override

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
        kept["model"].collection_dir = self.collection_dir
        return kept["model"]


@dataclass(frozen=True)
class SetOptions:
    """Which items, and on what."""

    manifest: str = option("", "a CSV file with a column path, and if wanted caption and any variable of encode.sh in "
                           "lower case; or a folder of pictures or clips (required)", identity=False)
    family: str = option("", "image or video; empty: video where CONFIG says wan or video, else image",
                         choices=("", "image", "video"), identity=False)
    ray_address: str = option("", "host:port of a Ray cluster to join; empty: Ray is started on this machine",
                              identity=False)
    workers: int = option(0, "processes that encode, each with a model of its own; 0: as many as there are GPUs, or "
                          "CPUs / CPUS", minimum=0, identity=False)
    cpus: float = option(1.0, "CPU cores of a worker", minimum=0.1, identity=False)
    gpus: float = option(-1.0, "GPUs of a worker, parts allowed; -1: 1 where this machine has GPUs or RAY_ADDRESS is "
                         "set, and DEVICE is not cpu", minimum=-1, identity=False)
    retries: int = option(2, "how often an item is tried again whose process died", minimum=0, identity=False)
    report: bool = option(True, "make report.html with PSNR and MS-SSIM at the end", identity=False)


@dataclass(frozen=True)
class VideoSet(KeptModel, SetOptions, video.encode.Encode):
    """A set of videos; the other variables are those of video/encode.sh."""

    out_dir: str = override(video.encode.Encode, "out_dir", "", help=GETS)


@dataclass(frozen=True)
class ImageSet(KeptModel, SetOptions, image.encode.Encode):
    """A set of pictures; the other variables are those of image/encode.sh."""

    out_dir: str = override(image.encode.Encode, "out_dir", "", help=GETS)


def _usual_video() -> str:
    from video.backbone import WanBackbone

    return WanBackbone.usual_model


def _usual_image() -> str:
    from image.backbone import QwenBackbone

    return QwenBackbone.usual_model


USUAL = {"video": _usual_video, "image": _usual_image}  # --help needs no torch
KINDS = {"video": (VideoSet, video.encode.main, "frames_dir"), "image": (ImageSet, image.encode.main, "image")}


def family(arguments: list[str], environ: dict[str, str]) -> str:
    """FAMILY, or what the name of CONFIG says."""
    def given(name: str) -> str:
        flags = [b for a, b in pairwise(arguments) if a == f"--{name}"]
        return (flags or [environ.get(name.upper(), "")])[-1]
    usual = "video" if any(word in given("config") for word in ("wan", "video")) else "image"
    return given("family") if given("family") in KINDS else usual  # what is neither is refused with the settings
