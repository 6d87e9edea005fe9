"""All results in one command: ours and the codecs that people use, at equal bytes."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path

from scripts.results.settings import Results
from vov import VovError
from vov.config import number_list
from vov.runtime.files import REPO

FRAMES = 17  # of a clip


def main(settings: Results) -> None:
    """Measures what is not measured yet; writes and prints everything."""
    from scripts.results import data, page
    from scripts.results.comparison import Comparison
    from vov.evaluation.catalogue import left_out
    from vov.evaluation.measure import Suite
    from vov.model.lookup import pick_device

    place = Path(settings.results)
    if settings.redraw:
        document = data.read(place / "results.json")
        found = {"means": data.means(document["rows"]), "bd": data.deltas(document["rows"])}
        page.write(document | found, place, Path(settings.out))
        return
    if Path.cwd() != REPO:  # where the commands run
        settings = dataclasses.replace(settings, out=str(Path(settings.out).resolve()))
    originals, sizes = read(settings), read_sizes(settings)
    before = data.read(place / "results.json") if settings.add else None
    suite = Suite(pick_device(settings.device), skipped=left_out(settings.metrics, False, True, False))
    if before is not None:
        data.refuse_mixture(before, settings.extent, suite, place / "results.json")
    comparison, rows = Comparison(settings, models(settings), suite), []
    for row in comparison.rows(originals, sizes):
        print(page.line(row), flush=True)
        rows.append(row)
    if not rows:
        raise VovError("nothing was measured; give clips, videos or pictures, and codecs or ways to code them")
    document = data.build(rows, settings, suite, originals, comparison.notes)
    if before is not None:
        document = data.added(before, document)
    page.write(document, place, Path(settings.out))
    print(f"{place / 'tables.md'}")


def models(settings: Results) -> dict:
    """{kind: loads its model}."""
    def load(tree: str):
        if tree == "video":
            from vov.model.wan import WanBackbone as Kind
        else:
            from vov.model.qwen import QwenBackbone as Kind
        return dataclasses.replace(settings, model_id=getattr(settings, f"{tree}_model")).load(Kind)

    video = partial(load, "video")
    return {"clips": video, "sequences": video, "pictures": partial(load, "image")}


def read(settings: Results) -> list:
    """The originals, all mistakes of the settings before any work."""
    from scripts.results import originals, ways

    length = {"clips": FRAMES, "sequences": settings.sequence_frames or {"quick": 33, "full": 120}[settings.extent]}
    found = []
    for kind in ways.KINDS:
        ways.chosen(settings.extent, kind, settings.ways, "")
        if (path := settings.collection_of(kind)) and not Path(path).is_file():
            raise VovError(f"{path}: no such θ of a collection; make it with scripts/fit_collection.sh")
        text = getattr(settings, kind)
        found += originals.read(kind, "" if text == "none" else text, settings.media_dir,
                                Path(settings.out) / "originals", length.get(kind, 1), settings.picture_side,
                                settings.show)
    return found


def read_sizes(settings: Results) -> dict[str, list[float]]:
    """{kind: sizes, smallest first}."""
    given = {"clips": "clip_bytes", "sequences": "sequence_rates", "pictures": "picture_bytes"}
    return {kind: sorted(number_list(name.upper(), getattr(settings, name), positive=True))
            for kind, name in given.items()}

