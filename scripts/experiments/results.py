"""All results in one command: ours and the codecs that people use, at equal bytes."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vov import VovError, cli
from vov.config import number_list, option
from vov.files import REPO
from vov.model.options import ModelOptions

logger = logging.getLogger(__name__)
FRAMES = 17  # of a clip


@dataclass(frozen=True)
class Results(ModelOptions):
    """What is compared. Every variable of the commands that it runs works too (SCORE=pixel, STAGE1_LR=…)."""

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
        from scripts.experiments.results_ways import ANCHORS
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

    def collection(self, kind: str) -> str:
        """The collection's θ of a kind, "" for none."""
        return {"clips": self.clip_collection, "pictures": self.picture_collection}.get(kind, "")

    def shared(self, kind: str) -> tuple[str, float]:
        """(the setting that names the collection's θ, its bytes that one file has to bear)."""
        path = Path(self.collection(kind)).resolve()
        return f"COLLECTION={shlex.quote(str(path))}", path.stat().st_size / self.collection_files

    def environment(self) -> dict[str, str]:
        """What the commands need to know beside their own variables."""
        given = {"WAN_MODEL_ID": self.video_model, "QWEN_MODEL_ID": self.image_model, "CACHE_DIR": self.cache_dir,
                 "DEVICE": self.device, "NUM_GPUS": "1", "PREVIEW_EVERY": "0", "OVERWRITE": "1", "AUDIO": "none"}
        return given | {"METRICS": "", "OUT": "", "RESULTS": "", "VOV_SPELLING": "0"}  # they are for several commands


def main(settings: Results) -> None:
    """Measures what is not measured yet; writes and prints everything."""
    from scripts.experiments import results_document, results_page, results_rows
    from vov.evaluation.catalogue import left_out
    from vov.evaluation.measure import Suite
    from vov.model.lookup import pick_device

    place = Path(settings.results)
    if settings.redraw:
        document = results_document.read(place / "results.json")
        found = {"means": results_document.means(document["rows"]), "bd": results_document.deltas(document["rows"])}
        results_page.write(document | found, place, Path(settings.out))
        return
    if Path.cwd() != REPO:  # where the commands run
        settings = dataclasses.replace(settings, out=str(Path(settings.out).resolve()))
    originals, sizes = read(settings), read_sizes(settings)
    before = results_document.read(place / "results.json") if settings.add else None
    suite = Suite(pick_device(settings.device), skipped=left_out(settings.metrics, False, True, False))
    if before is not None:
        results_document.refuse_mixture(before, settings.extent, suite, place / "results.json")
    bench, rows = results_rows.Bench(settings, models(settings), suite), []
    for row in bench.rows(originals, sizes):
        print(results_page.line(row), flush=True)
        rows.append(row)
    if not rows:
        raise VovError("nothing was measured; give clips, videos or pictures, and codecs or ways to code them")
    document = results_document.build(rows, settings, suite, originals, bench.notes)
    if before is not None:
        document = results_document.added(before, document)
    results_page.write(document, place, Path(settings.out))
    print(f"{place / 'tables.md'}")


def models(settings: Results) -> dict:
    """{kind: loads its model}."""
    def load(tree: str):
        if tree == "video":
            from video.backbone import WanBackbone as Kind
        else:
            from image.backbone import QwenBackbone as Kind
        return dataclasses.replace(settings, model_id=getattr(settings, f"{tree}_model")).load(Kind)

    video = partial(load, "video")
    return {"clips": video, "sequences": video, "pictures": partial(load, "image")}


def read(settings: Results) -> list:
    """The originals, all mistakes of the settings before any work."""
    from scripts.experiments import results_originals, results_ways

    length = {"clips": FRAMES, "sequences": settings.sequence_frames or {"quick": 33, "full": 120}[settings.extent]}
    found = []
    for kind in results_ways.KINDS:
        results_ways.chosen(settings.extent, kind, settings.ways, "")
        if (path := settings.collection(kind)) and not Path(path).is_file():
            raise VovError(f"{path}: no such θ of a collection; make it with scripts/fit_collection.sh")
        text = getattr(settings, kind)
        found += results_originals.read(kind, "" if text == "none" else text, settings.media_dir,
                                        Path(settings.out) / "originals", length.get(kind, 1), settings.picture_side,
                                        settings.show)
    return found


def read_sizes(settings: Results) -> dict[str, list[float]]:
    """{kind: sizes, smallest first}."""
    given = {"clips": "clip_bytes", "sequences": "sequence_rates", "pictures": "picture_bytes"}
    return {kind: sorted(number_list(name.upper(), getattr(settings, name), positive=True))
            for kind, name in given.items()}


if __name__ == "__main__":
    cli.run(Results, main, "bash scripts/results.sh [quick|full] [--flag value …]")
