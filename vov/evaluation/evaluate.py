"""One evaluation, for both trees: measure every pair, encode the anchors, write the files of results."""

from __future__ import annotations

import dataclasses
import logging
import math
import platform
import shlex
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vov import VovError, media
from vov.evaluation import bdrate, explicit, fvd, report
from vov.evaluation.anchors import anchor_points, parse_anchors
from vov.evaluation.measure import METRICS, Suite, weights_in_use
from vov.evaluation.pairs import EvalConfig, Item, check, numbers, pair, read_curves, read_manifest
from vov.evaluation.perceptual import Unavailable
from vov.files import content_hash, refuse_existing, write_bytes, write_json
from vov.model.backbone import Backbone
from vov.model.lookup import pick_device

logger = logging.getLogger(__name__)
OUTPUTS = ("results.json", "results.csv", "results.md", "rd.svg", "report.html")


@dataclass(frozen=True)
class Tree:
    """What evaluation needs of the image or the video tree.

    Attributes:
        images: every picture of a folder is an item of its own (a folder of frames is one clip otherwise).
        model_id: the tree's usual foundation model.
        load: its backbone's `load`: (model_id, cache_dir, device, dtype, trusted) → backbone.
    """

    images: bool
    model_id: str
    load: Callable[[str, str, str, str, bool], Backbone]


def evaluate(settings: EvalConfig, tree: Tree) -> dict:
    """Runs everything and writes the files of results into OUT_DIR; returns what is in results.json.

    Raises VovError before any long work when an input is missing, unreadable, or does not match its original.
    """
    out = Path(settings.out_dir)
    for name in OUTPUTS:
        refuse_existing(out / name, settings.overwrite)
    anchors = parse_anchors(settings.anchors)
    curves = read_curves(settings.reference_curves)
    items = read_manifest(settings) if settings.manifest else pair(settings, tree.images)
    device = pick_device(settings.device)
    check(items, settings)
    for item in items:
        if str(item.decoded).endswith(".vov"):
            item.decoded = decode_vov(item, settings, tree)
    check(items, settings)
    notes: list[str] = []
    for clip in dict.fromkeys(item.clip for item in items):
        items += make_anchors([item for item in items if item.clip == clip], anchors, settings, tree, notes)
    suite = Suite(device, settings.metric_weights_dir, settings.frame_step,
                  pictures=not settings.skip_metrics, video=not (settings.skip_fvd or tree.images),
                  video_reason="needs at least 2 frames" if tree.images else "skipped by SKIP_FVD")
    for item in tqdm(items, desc="evaluate", unit="clip", disable=len(items) < 2):
        stills = np.linspace(0, item.count - 1, min(settings.report_frames, item.count) + 2 * (item.count > 2))
        stills = sorted({round(i) for i in (stills[1:-1] if item.count > 2 else stills)})
        item.measured = suite.measure(item.reference(), item.source(), item.count, stills,
                                      video=settings.report_video and item.count > 1)
        set_rate(item)
    results = collect(items, suite, settings, anchors, curves, notes, device, tree)
    write_json(out / "results.json", results)
    write_bytes(out / "results.csv", report.to_csv(results).encode())
    write_bytes(out / "results.md", report.to_markdown(results).encode())
    figure = report.rd_figure(results)
    if figure:
        write_bytes(out / "rd.svg", figure)
    write_bytes(out / "report.html", report.to_html(results, items).encode())
    return results


def decode_vov(item: Item, settings: EvalConfig, tree: Tree) -> Path:
    """Decodes an item's .vov file with the frozen model into WORK_DIR; returns the frames' folder or picture."""
    from vov import bitstream, codec

    path = Path(item.decoded)
    header = bitstream.read(path).header
    backbone = tree.load(settings.model_id or header.model_id, settings.cache_dir, settings.device,
                         header.dtype, bool(settings.model_id))
    clips = codec.decode_file(path, backbone)
    if len(clips) != 1:
        raise VovError(f"{path}: holds {len(clips)} pictures; decode it first, then give the folder as FAKE_DIR and "
                       "the file as BITSTREAM")
    item.detail["model_id"] = header.model_id
    if header.fit == "crop":
        item.crop = clips[0].size
    folder = Path(settings.work_dir) / "decoded" / f"{path.stem}-{content_hash(path.read_bytes())[:8]}"
    shutil.rmtree(folder, ignore_errors=True)  # frames of an interrupted run
    media.write_frames(folder, clips[0].frames)
    return folder


def make_anchors(items: Sequence[Item], anchors: Sequence[tuple[str, str]], settings: EvalConfig, tree: Tree,
                 notes: list[str]) -> list[Item]:
    """Encodes one clip with every anchor at sizes matched to the clip's first item that has a rate."""
    if not anchors:
        return []
    first = items[0]
    original = first.reference()
    width, height = next(iter(original)).shape[1::-1]
    ours = next((i.bytes or i.bpp * width * height * i.count / 8 for i in items if i.bytes or i.bpp), None)
    if settings.anchor_bytes:
        targets = numbers("ANCHOR_BYTES", settings.anchor_bytes)
    elif ours:
        targets = [ours * rate for rate in numbers("ANCHOR_RATES", settings.anchor_rates)]
    else:
        raise VovError("ANCHORS need a size to match; give BITSTREAM (or bytes or bpp in the manifest) or ANCHOR_BYTES")
    folder = Path(settings.work_dir) / "anchors" / first.clip
    made: list[Item] = []
    # explicit first: a model that is not there should be known before an hour of encoding
    for name, preset in sorted(anchors, key=lambda anchor: anchor[0] != "explicit"):
        logger.info("anchor %s of %s", name, first.clip)
        if name == "explicit":
            coded_with = next((item.detail["model_id"] for item in items if "model_id" in item.detail), "")
            made += _explicit_items(first, targets, folder / name, settings, tree, coded_with)
            continue
        points = anchor_points(name, preset, original, first.count, original.fps,
                                      [round(t) for t in targets], folder / name)
        for point in points:
            made.append(dataclasses.replace(
                first, name=f"{name} q{point.quality}", codec=name, decoded=point.open(), bytes=float(point.bytes),
                bpp=None, rate_source="elementary stream",
                detail={"preset": preset, "quality": point.quality, "command": point.command}))
        if points[0].bytes > 1.05 * min(targets):
            notes.append(f"{name} cannot make {first.clip} as small as {min(targets):,.0f} bytes: "
                         f"its smallest is {points[0].bytes:,}")
    return made


def _explicit_items(first: Item, targets: Iterable[float], folder: Path, settings: EvalConfig,
                    tree: Tree, coded_with: str) -> list[Item]:
    """Points of the model that the clip's .vov file names, unless MODEL_ID is set; without either, the tree's."""
    backbone = tree.load(settings.model_id or coded_with or tree.model_id, settings.cache_dir, settings.device, "auto",
                         bool(settings.model_id) or not coded_with)
    frames = np.stack([frame for _, frame in zip(range(first.count), first.reference(), strict=False)])
    made = []
    for path in explicit.encode(media.Clip(frames, first.fps), backbone, [round(t) for t in targets], folder):
        decoded = folder / path.stem
        shutil.rmtree(decoded, ignore_errors=True)
        media.write_frames(decoded, explicit.decode_file(path, backbone).frames)
        made.append(dataclasses.replace(
            first, name=f"explicit {path.stem}", codec="explicit", decoded=decoded, bytes=float(path.stat().st_size),
            bpp=None, rate_source="file",
            detail={"preset": backbone.name, "quality": path.stem,
                    "command": "VAE latents, uniform step, static table per channel (vov.evaluation.explicit)"}))
    return made


def set_rate(item: Item) -> None:
    """Fills bytes and bpp of a measured item from whichever is known."""
    width, height = item.measured.size
    pixels = width * height * item.count
    if item.bytes is None and item.bpp is not None:
        item.bytes = item.bpp * pixels / 8
    elif item.bytes is not None:
        item.bpp = 8 * item.bytes / pixels


def collect(items: Sequence[Item], suite: Suite, settings: EvalConfig, anchors: Sequence[tuple[str, str]],
            curves: list[dict], notes: list[str], device: torch.device, tree: Tree) -> dict:
    """Everything as one JSON-ready dictionary."""
    rows = [item_row(item) for item in items]
    reasons = {name: reason for item in items for name, reason in item.measured.unavailable.items()}
    shown = {name: reason for name, reason in reasons.items() if not any(name in row["metrics"] for row in rows)}
    return finite({
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": command_line(settings, tree),
        "config": dataclasses.asdict(settings),
        "environment": {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else
            f"cpu, {torch.get_num_threads()} threads", "python": platform.python_version(), "torch": torch.__version__,
            "ffmpeg": ffmpeg_version() if anchors else "", "weights_sha256": weights_in_use(suite)},
        "images": tree.images,
        "metrics": [name for name in METRICS if any(name in row["metrics"] for row in rows)],
        "unavailable": shown,
        "notes": notes,
        "items": rows,
        "summary": summarise(items),
        "bd": deltas(items, settings, anchors),
        "reference_curves": curves,
    })


def command_line(settings: EvalConfig, tree: Tree) -> str:
    """The command that repeats this run: every variable that differs from its default, however it was set."""
    usual = EvalConfig()
    changed = {field.name.upper(): getattr(settings, field.name) for field in dataclasses.fields(settings)
               if getattr(settings, field.name) != getattr(usual, field.name)}
    variables = [f"{name}={shlex.quote(str(int(value) if isinstance(value, bool) else value))}"
                 for name, value in changed.items()]
    return " ".join([*variables, "bash image/eval.sh" if tree.images else "bash video/eval/eval.sh"])


def item_row(item: Item) -> dict:
    """One item of results.json."""
    m = item.measured
    width, height = m.size
    return {
        "name": item.name, "clip": item.clip, "codec": item.codec, "frames": item.count, "width": width,
        "height": height, "fps": item.fps, "bytes": None if item.bytes is None else round(item.bytes),
        "bpp": item.bpp,
        "kB_per_s": item.bytes / 1000 * item.fps / item.count if item.bytes and item.count > 1 else None,
        "rate_source": item.rate_source, "metrics": m.values, "unavailable": m.unavailable,
        "fvd_clips": len(m.features["decoded"]) if m.features else None, "per_frame": m.per_frame, **item.detail,
    }


def summarise(items: Sequence[Item]) -> list[dict]:
    """Means over the clips of each codec that was measured once per clip; FVD over all its clips together."""
    rows = []
    for codec in dict.fromkeys(item.codec for item in items):
        group = [item for item in items if item.codec == codec]
        if len({item.clip for item in group}) != len(group) or len(group) < 2:
            continue
        names = [name for name in METRICS if all(name in item.measured.values for item in group)]
        values = {name: float(np.mean([item.measured.values[name] for item in group])) for name in names}
        row: dict[str, Any] = {"codec": codec, "clips": len(group)}
        if all(item.measured.features for item in group):
            stacked = {key: np.concatenate([item.measured.features[key] for item in group])
                       for key in group[0].measured.features}
            values["fvd"] = fvd.frechet_distance(stacked["original"], stacked["decoded"])
            values["fvd_full"] = fvd.frechet_distance(stacked["original_full"], stacked["decoded_full"])
            row |= {"fvd_clips": len(stacked["decoded"]), "fvd_full_clips": len(group)}
        rates = [item.bpp for item in group if item.bpp]
        row["bpp"] = float(np.mean(rates)) if len(rates) == len(group) else None
        rows.append(row | {"metrics": values})
    return rows


def deltas(items: Sequence[Item], settings: EvalConfig, anchors: Sequence[tuple[str, str]]) -> list[dict]:
    """BD-rate and BD-metric of every codec with two or more rates against BD_ANCHOR, per clip and on average."""
    with_rate = [item for item in items if item.bpp]
    names = list(dict.fromkeys(item.codec for item in with_rate))
    anchor = settings.bd_anchor or (anchors[0][0] if anchors else "")
    if not anchor:
        return []
    if anchor not in names:
        raise VovError(f"BD_ANCHOR={anchor}: none of the evaluated codecs with a rate; they are {', '.join(names)}")
    rows = []
    for metric in (name for name in METRICS if name != "warp_original"):
        for codec in (name for name in names if name != anchor):
            for clip in dict.fromkeys(item.clip for item in with_rate):
                def curve(which: str, clip: str = clip, metric: str = metric) -> list[tuple[float, float]]:
                    return [(i.bpp, i.measured.values[metric]) for i in with_rate
                            if i.clip == clip and i.codec == which and metric in i.measured.values]
                test, reference = curve(codec), curve(anchor)
                if len(test) < 2 or len(reference) < 2:
                    continue
                row: dict[str, Any] = {"metric": metric, "codec": codec, "anchor": anchor, "clip": clip}
                for key, function in (("bd_rate_percent", bdrate.bd_rate), ("bd_metric", bdrate.bd_metric)):
                    try:
                        row[key] = function(reference, test, metric, settings.bd_method)
                    except Unavailable as error:
                        row[key], row[f"{key}_reason"] = None, str(error)
                rows.append(row)
    return rows


def ffmpeg_version() -> str:
    """First line of ffmpeg -version."""
    import subprocess

    text = subprocess.run([media.ffmpeg(), "-version"], capture_output=True, text=True, check=False).stdout
    return text.splitlines()[0] if text else ""


def finite(value: Any) -> Any:
    """`value` with infinities as the strings "inf", "-inf" and NaN as None, which JSON cannot say."""
    if isinstance(value, dict):
        return {key: finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None if math.isnan(value) else f"{float(value)}"
    return value
