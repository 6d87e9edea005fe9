"""Ways to code videos of many chunks, at equal bytes of whole files, beside conventional codecs: table and BD-rates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from vov import VovError
from vov.commands.encode import EncodeVideo
from vov.config import cli, load, number_list, option, override
from vov.evaluation.anchors import CODECS, anchor_points, parse_anchors
from vov.evaluation.bdrate import bd_rate
from vov.evaluation.perceptual import Unavailable
from vov.media import FrameSource, write_frames
from vov.runtime.files import content_hash, write_json

VARIANTS = "independent:key_every=1 known theta:scene_theta=1024"


@dataclass(frozen=True)
class Sequences(EncodeVideo):
    """Which clips, ways and rates; every other setting is that of video/encode.sh."""

    frames_dir: str = override(EncodeVideo, "frames_dir", "", help="comma-separated: videos or "
                               "folders of frames, or parts of them joined: a.mp4:0:48+b.mp4:100:48 is 48 frames from "
                               "number 0 on, a cut, 48 from number 100 on (required)")
    variants: str = option(VARIANTS, "NAME[:variable=value,…] with spaces; BD-rates are against the first one")
    rates: str = option("15,30,60", "bytes a frame of the whole file")
    anchors: str = option("x264=veryslow,x265=veryslow,svtav1=2", "codecs as in eval.sh, at the same rates; none: none")
    audio: str = override(EncodeVideo, "audio", "none")
    resize: str = override(EncodeVideo, "resize", "crop")
    scenes: str = override(EncodeVideo, "scenes", "auto")


def parse(text: str) -> dict[str, dict[str, str]]:
    """VARIANTS as {name: {field: value}}."""
    known, found = {field.name for field in fields(EncodeVideo)}, {}
    for word in text.split():
        name, _, rest = word.partition(":")
        found[name] = dict(item.partition("=")[::2] for item in rest.split(",") if item)
        if strange := set(found[name]) - known:
            raise VovError(f"VARIANTS: {word}: no variable called {sorted(strange)[0]}; see video/encode.sh --help")
    return found


def joined(settings: Sequences, clip: str) -> str:
    """The clip; where it is `PATH:FIRST:COUNT+…`, a folder in OUT_DIR with those frames at the coded size."""
    if "+" not in clip:
        return clip
    parts = [word.rsplit(":", 2) for word in clip.split("+")]
    if not all(len(part) == 3 and part[1].isdecimal() and part[2].isdecimal() for part in parts):
        raise VovError(f"FRAMES_DIR: {clip}: parts to join are PATH:FIRST:COUNT")
    folder = Path(settings.out_dir) / "joined" / f"cuts{content_hash(clip, settings.width, settings.height)[:8]}"
    if not folder.is_dir():
        sources = [FrameSource(path, start=first, frames=int(count), size=(settings.width, settings.height),
                               resize=settings.resize) for path, first, count in parts]
        half = folder.with_suffix(".part")  # a run that is killed leaves this, and writes it again
        write_frames(half, np.concatenate([np.stack(list(source)) for source in sources]))
        half.rename(folder)
    return str(folder)


def ours(settings: Sequences, clip: str, variant: str, changed: Mapping[str, str], rate: float, known: dict) -> dict:
    """One row: the clip coded in one way at one rate, by the command that users type.

    known: what else the row depends on: the model, and where it runs.
    """
    from vov.commands.film import encode

    source = FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps)
    known = known | {"content": content_hash(*(np.ascontiguousarray(frame).data for frame in source))}
    plain = {field.name: str(getattr(settings, field.name)) for field in fields(EncodeVideo) if field.name != "config"}
    given = plain | {"frames_dir": clip, "target_bytes": str(round(rate * len(source)))} | dict(changed)
    asked = load(EncodeVideo, given, {})
    folder = Path(settings.out_dir) / Path(clip).stem / f"{variant}_{rate:g}"
    path = folder / f"{Path(clip).stem}.vov"
    wanted = {name: value for name, value in vars(asked).items() if name not in ("frames_dir", "out_dir", "overwrite")}
    kept, settled = folder / "row.json", json.loads(json.dumps(wanted | known))
    if kept.is_file() and (row := json.loads(kept.read_text()))["settings"] == settled and path.is_file():
        return row
    encode(replace(asked, overwrite=True, out_dir=str(folder), name=Path(clip).stem))
    result = json.loads((folder / "result.json").read_text())
    shown = ("bytes", "frames", "psnr", "ms_ssim", "seam_db", "psnr_by_chunk", "bytes_by_part", "seconds")
    row = {"clip": Path(clip).stem, "way": variant, "rate": rate, "settings": settled, **{k: result[k] for k in shown}}
    kept.write_text(json.dumps(row, indent=1) + "\n")
    return row


def anchors(settings: Sequences, clip: str, rates: list[float]) -> Iterator[dict]:
    """Rows of the conventional codecs: the finest stream that is not larger, where there is one."""
    from scripts.results.kept import quality

    if settings.anchors == "none":
        return
    source = FrameSource(clip, start=settings.start, frames=settings.frames, fps=settings.fps,
                         size=(settings.width, settings.height), resize=settings.resize)
    target = np.stack(list(source))
    for name, preset in parse_anchors(settings.anchors):
        for rate in rates:
            size, place = round(rate * len(target)), Path(settings.out_dir) / Path(clip).stem / f"{name}_{rate:g}"
            [made] = anchor_points(CODECS[name].name, preset, target, len(target), source.fps, [size], place)
            if made.bytes <= size:
                yield {"clip": Path(clip).stem, "way": name, "rate": rate, "bytes": made.bytes, "frames": [len(target)],
                       **quality(target, np.stack(list(made.open())))}


def bd_rates(rows: list[dict], first: str) -> Iterator[str]:
    """A line for each way: BD-rate of PSNR against the first way."""
    curves: dict[str, list] = {}
    for row in rows:
        curves.setdefault(row["way"], []).append((row["bytes"], row["psnr"]))
    for name, curve in curves.items():
        try:
            value = f"{bd_rate(curves[first], curve, 'psnr'):+.1f} %"
        except Unavailable as error:
            value = f"n/a ({error})"
        yield f"{rows[0]['clip']:<20}{name:<16}BD-rate against {first}: {value}"


def line(row: dict) -> str:
    """A row for people."""
    seam = row.get("seam_db")
    return (f"{row['clip']:<20}{row['way']:<16}{row['rate']:>5g} B a frame {row['bytes']:>8,} B {row['psnr']:>6.2f} dB "
            + ("   n/a" if row["ms_ssim"] is None else f"{row['ms_ssim']:.4f}")
            + ("" if seam is None else f"  seam {seam:+.2f} dB"))


def main(settings: Sequences) -> list[dict]:
    """Codes what is not coded yet; prints a line for each file and BD-rates; writes OUT_DIR/sequences.json."""
    if not settings.frames_dir or not settings.out_dir:
        raise VovError("FRAMES_DIR and OUT_DIR must be set; see --help")
    from vov.model.wan import WanBackbone

    rates, ways, rows = number_list("RATES", settings.rates, positive=True), parse(settings.variants), []
    backbone = settings.load(WanBackbone)
    known = {"model": backbone.fingerprint().hex(), "precision": backbone.precision, "where": backbone.device.type}
    del backbone
    for clip in (joined(settings, word) for word in settings.frames_dir.split(",")):
        found = [ours(settings, clip, name, changed, rate, known) for name, changed in ways.items() for rate in rates]
        found += anchors(settings, clip, rates)
        print(*(line(row) for row in found), *bd_rates(found, next(iter(ways))), sep="\n", flush=True)
        rows += found
        write_json(Path(settings.out_dir) / "sequences.json", rows)
    return rows


if __name__ == "__main__":
    usage = "FRAMES_DIR=a.mp4,b.mp4 OUT_DIR=runs/sequences [VARIABLE=value …] bash scripts/sequences.sh"
    cli.run(Sequences, main, usage, stages=("encode",))
