"""The variables of `scripts/results.sh`."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from scripts.results.ways import ANCHORS
from vov.config import option
from vov.model.options import ModelOptions


@dataclass(frozen=True)
class Results(ModelOptions):
    """What is compared. Every variable of the commands that it runs works too (SCORE=pixel, STAGE1_LR=…)."""

    UNUSED = ("collection",)  # of one command; CLIP_COLLECTION and PICTURE_COLLECTION are handed on

    extent: str = option("quick", "quick: meant for 20 minutes on 2 cores, some ways at some sizes; full: all ways at "
                         "all sizes, by estimate 90 minutes a clip, 20 a picture, 90 a video of 120 frames there",
                         choices=("quick", "full"))
    clips: str = option("demo", "short clips, NAME=PATH with commas between; the first 17 frames, cropped to 192×112; "
                        "demo: the demo's; none: none")
    sequences: str = option("demo", "videos of several chunks, likewise")
    pictures: str = option("demo", "pictures, likewise; demo: two photographs of scikit-image")
    media_dir: str = option(".", "what relative paths in these lists start from")
    show: str = option("", "names of those whose licence lets them be shown; the demo's always are")
    sequence_frames: int = option(0, "frames of a video of several chunks; 0: 33 (quick) or 120 (full)", minimum=0)
    picture_side: int = option(384, "pixels of a picture's longer side", minimum=32)
    clip_bytes: str = option("740,1237,2250,4700", "sizes of files of clips")
    sequence_rates: str = option("15,30,60", "sizes of files of videos, in bytes a frame")
    picture_bytes: str = option("700,1000,2250,4500", "sizes of files of pictures")
    ways: str = option("", "which of our ways, with commas between; clips:random is for clips alone; none: none; "
                      "empty: those of the extent")
    anchors: str = option("auto", "codecs as in eval.sh, CODEC or CODEC=PRESET; auto: x264, x265, SVT-AV1, VVC; JPEG, "
                          "WebP, AVIF, JPEG XL; none: none")
    metrics: str = option("psnr,ms_ssim,stlpips_alex,jod,vmaf,xpsnr,ssimulacra2", "as in eval.sh")
    video_model: str = option("nano-video", "the model of clips and videos", alias=("WAN_MODEL_ID",))
    image_model: str = option("nano-image", "the model of pictures", alias=("QWEN_MODEL_ID",))
    clip_collection: str = option("", "a collection's θ (.vovd) to code the clips with too")
    picture_collection: str = option("", "a collection's θ to code the pictures with too")
    collection_files: int = option(1000, "files among which the bytes of a collection's θ are shared out", minimum=1)
    out: str = option("runs/results", "gets rows.jsonl, every file and what it decodes to; a stopped run goes on")
    results: str = option("docs/results", "gets results.json, tables.md, curves and pictures; where it is the "
                          "repository's docs/results, the figures that READMEs quote are brought up to date")
    add: bool = option(False, "rows of RESULTS/results.json that this run does not measure stay, made with the same "
                       "EXTENT and versions; so one kind, one way or one original can be measured anew")
    redraw: bool = option(False, "measure nothing: write everything again from RESULTS/results.json")

    def codecs(self, kind: str) -> list[tuple[str, str]]:
        """(codec, preset) of a kind."""
        from vov.evaluation.anchors import CODECS, parse_anchors

        found = parse_anchors(ANCHORS[kind] if self.anchors == "auto" else self.anchors)
        return [(name, preset) for name, preset in found if name in CODECS
                and (CODECS[name].is_video or kind == "pictures")]

    def takes_explicit(self) -> bool:
        """Whether quantised latents are compared too."""
        return not self.ways or "explicit" in self.ways.split(",")

    def wanted(self) -> list[str]:
        """The names of METRICS."""
        return [name.strip() for name in self.metrics.split(",") if name.strip()]

    def collection_of(self, kind: str) -> str:
        """The collection's θ of a kind, "" for none."""
        return {"clips": self.clip_collection, "pictures": self.picture_collection}.get(kind, "")

    def shared(self, kind: str) -> tuple[str, float]:
        """(the setting that names the collection's θ, its bytes that one file has to bear)."""
        path = Path(self.collection_of(kind)).resolve()
        return f"COLLECTION={shlex.quote(str(path))}", path.stat().st_size / self.collection_files

    def environment(self) -> dict[str, str]:
        """What the commands need to know beside their own variables."""
        given = {"WAN_MODEL_ID": self.video_model, "QWEN_MODEL_ID": self.image_model, "CACHE_DIR": self.cache_dir,
                 "DEVICE": self.device, "NUM_GPUS": "1", "PREVIEW_EVERY": "0", "OVERWRITE": "1", "AUDIO": "none"}
        given |= dict.fromkeys(("METRICS", "COLLECTION", "OUT", "RESULTS"), "")  # they are for several commands
        return given | {"VOV_SPELLING": "0"}
