"""One evaluation, for both trees: measure every pair, encode the anchors, write the files of results."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vov import VovError, media
from vov.config import number_list, read_by
from vov.decoding.decode import Decoder, read
from vov.evaluation import explicit, report
from vov.evaluation.anchors import anchor_points, parse_anchors
from vov.evaluation.catalogue import left_out
from vov.evaluation.collect import bd_anchor, collect
from vov.evaluation.manifest import read_curves, read_manifest
from vov.evaluation.measure import Suite
from vov.evaluation.pairs import EvalConfig, Pair, open_pairs, read_folders
from vov.model.backbone import Backbone
from vov.model.lookup import pick_device
from vov.model.registry import USUAL, backbone_class
from vov.runtime.files import content_hash, path_hash, refuse_overlap, refuse_unwritable, write_bytes, write_json
from vov.runtime.resumable import Outputs

logger = logging.getLogger(__name__)
PLACES = ("real_dir", "fake_dir", "bitstream", "manifest", "media_dir", "out_dir", "work_dir", "overwrite",
          "metric_weights_dir", "reference_curves")  # content counts, not where it is
OUTPUTS = ("results.json", "results.csv", "results.md", "rd.svg", "report.html")
Anchors = Sequence[tuple[str, str]]  # (codec, preset)


def evaluate(settings: EvalConfig, medium: str) -> dict:
    """Runs everything and writes the files of results into OUT_DIR; returns what is in results.json.

    Raises VovError before any long work when an input is missing, unreadable, or does not match its original.
    """
    out = Path(settings.out_dir)
    refuse_unwritable([out / name for name in OUTPUTS])
    anchors, curves = parse_anchors(settings.anchors), read_curves(settings.reference_curves)
    skipped = left_out(settings.metrics, settings.skip_metrics, settings.skip_fvd, medium == "image")
    pairs = read_manifest(settings) if settings.manifest else read_folders(settings, medium == "image")
    refuse_originals(settings, pairs)
    open_pairs(pairs, settings.num_frames, settings.decode_limit)
    bd_anchor(pairs, settings, anchors)  # its mistakes before any work
    with Outputs("results", [out / name for name in OUTPUTS], identity(settings, pairs, medium),
                 settings.overwrite) as outputs:
        if outputs.complete:
            return json.loads((out / "results.json").read_bytes())
        return measure(settings, medium, pairs, (anchors, curves, skipped), outputs)


def refuse_originals(settings: EvalConfig, pairs: Sequence[Pair]) -> None:
    """Raises VovError when results, streams of anchors or decoded frames would touch what is compared."""
    read = [*read_by(settings), *(Path(path) for pair in pairs for path in (pair.original, pair.decoded))]
    refuse_overlap([Path(settings.out_dir) / name for name in OUTPUTS], read)
    used = {"anchors": bool(settings.anchors), "decoded": any(pair.is_coded for pair in pairs)}
    refuse_overlap([Path(settings.work_dir) / name for name in used if used[name]], read, "work_dir")


def identity(settings: EvalConfig, pairs: Sequence[Pair], medium: str) -> str:
    """Of an evaluation: its settings and the content of everything that is compared, wherever it is."""
    fields = [(field.name, getattr(settings, field.name)) for field in dataclasses.fields(settings)
              if field.metadata["identity"] and field.name not in PLACES]
    files = [path for pair in pairs for path in (pair.original, pair.decoded)] + [settings.reference_curves]
    told = [(pair.name, pair.clip, pair.codec, pair.bytes, pair.bpp) for pair in pairs]
    return content_hash(medium == "image", fields, told, *(path_hash(path) if path else "" for path in files))


def measure(settings: EvalConfig, medium: str, pairs: list[Pair], chosen: tuple, outputs: Outputs) -> dict:
    """Measures pairs and anchors and writes the files of results.

    chosen: (anchors, curves, skipped metrics).
    """
    out, device, (anchors, curves, skipped) = Path(settings.out_dir), pick_device(settings.device), chosen
    notes: list[str] = []
    pairs += make_anchors(pairs, anchors, settings, medium, notes)
    suite = Suite(device, settings.metric_weights_dir, settings.frame_step, skipped, settings.jod_display)
    for pair in tqdm(pairs, desc="evaluate", unit="clip", disable=len(pairs) < 2):
        pair.measured = suite.measure(pair.reference(), pair.source(), pair.count,
                                      report.still_frames(pair.count, settings.report_frames),
                                      video=settings.report_video and pair.count > 1)
        pair.fill_rate()
    results = collect(pairs, suite, settings, anchors, curves, notes, device, medium == "image")
    texts = {"results.csv": report.to_csv(results).encode(), "results.md": report.to_markdown(results).encode()}
    if figure := report.rd_figure(results):
        texts["rd.svg"] = figure
    texts["report.html"] = report.to_html(results, pairs).encode()
    outputs.forget()  # seconds and versions differ from run to run: the files of one run belong together
    outputs.make(out / "results.json", lambda: write_json(out / "results.json", results))
    for name, text in texts.items():
        outputs.make(out / name, partial(write_bytes, out / name, text))
    outputs.finish()
    return results


def make_anchors(pairs: Sequence[Pair], anchors: Anchors, settings: EvalConfig, medium: str,
                 notes: list[str]) -> list[Pair]:
    """Decodes the .vov files among the pairs, then encodes every clip with every anchor; returns the anchors' pairs.

    What needs a foundation model comes first, so that a missing one is known before an hour of encoding.
    """
    clips: dict[str, list[Pair]] = {}
    for pair in pairs:
        clips.setdefault(pair.clip, []).append(pair)
    targets = {clip: anchor_sizes(group, settings) for clip, group in clips.items()} if anchors else {}
    wanted = targets if "explicit" in dict(anchors) else {}
    made = run_models(clips, wanted, settings, medium)
    for clip, group in clips.items():
        for name, preset in anchors:
            if name == "explicit":
                continue
            logger.info("anchor %s of %s", name, clip)
            made[clip] += codec_pairs(group[0], name, preset, targets[clip],
                                      Path(settings.work_dir) / "anchors" / clip / name, notes)
    return [pair for group in made.values() for pair in group]


def anchor_sizes(group: Sequence[Pair], settings: EvalConfig) -> list[float]:
    """The bytes that a clip's anchors should have: ANCHOR_BYTES, or multiples of the first of its pairs with a rate."""
    if settings.anchor_bytes:
        return number_list("`anchor_bytes`", settings.anchor_bytes, positive=True)
    rated = next((pair for pair in group if pair.bytes or pair.bpp), None)
    if rated is None:
        raise VovError("`anchors` need a size to match; give `bitstream` (or bytes or bpp in the manifest) or "
                       "`anchor_bytes`")
    height, width = next(iter(rated.reference())).shape[:2]
    ours = rated.bytes or rated.bpp * width * height * rated.count / 8
    return [ours * rate for rate in number_list("`anchor_rates`", settings.anchor_rates, positive=True)]


def run_models(clips: dict[str, list[Pair]], targets: dict[str, list[float]], settings: EvalConfig,
               medium: str) -> dict[str, list[Pair]]:
    """Everything that needs a foundation model, model by model, so that each is loaded once and one is in memory.

    Decodes the pairs that are .vov files, in place, and makes the explicit points of the clips in `targets`.

    Returns:
        {clip: pairs of its explicit points}, for every clip.
    """
    coded = {pair.header.model_id: _model(pair, settings) for group in clips.values() for pair in group if pair.header}
    fallback = (settings.model_id or USUAL[medium], settings.precision(), True)
    wanted: dict[tuple[str, str, bool], list[str]] = {}  # clips whose explicit points a model makes
    for clip in targets:
        own = next((pair.header.model_id for pair in clips[clip] if pair.header), "")
        wanted.setdefault(coded.get(own, fallback), []).append(clip)
    waiting: dict[tuple[str, str, bool], list[Pair]] = {}
    for pair in (pair for group in clips.values() for pair in group if pair.is_coded):
        waiting.setdefault(_model(pair, settings), []).append(pair)
    made: dict[str, list[Pair]] = {clip: [] for clip in clips}
    for model in dict.fromkeys((*waiting, *wanted)):
        name, dtype, trusted = model
        backbone = backbone_class(medium).load(name, settings.cache_dir, settings.device, dtype, trusted,
                                               settings.offload)
        for pair in waiting.get(model, ()):
            pair.decoded = decode_vov(Path(pair.decoded), backbone, Path(settings.work_dir) / "decoded",
                                      settings.collection)
        for clip in wanted.get(model, ()):
            made[clip] = explicit_pairs(clips[clip][0], targets[clip], backbone,
                                        Path(settings.work_dir) / "anchors" / clip / "explicit")
        del backbone
    return made


def _model(pair: Pair, settings: EvalConfig) -> tuple[str, str, bool]:
    """(id, precision, whether the user gave the id) of the model that decodes a pair's .vov file."""
    header = pair.header
    assert header is not None  # of a .vov file it has been read
    precision = settings.precision(header.dtype, str(pair.decoded))
    return settings.model_id or header.model_id, precision, bool(settings.model_id)


def decode_vov(path: Path, backbone: Backbone, folder: Path, collections: str = "") -> Path:
    """Decodes a .vov file of one clip, picture or video; returns the folder of its frames, in `folder`."""
    frames = folder / f"{path.stem}-{content_hash(path.read_bytes())[:8]}"
    shutil.rmtree(frames, ignore_errors=True)  # frames of an interrupted run
    stream = read(path, limit=0)  # `open_pairs` has looked at what it asks for
    with Decoder(stream, backbone, collections=collections) as decoder:
        media.write_frames(frames, decoder.frames())
    return frames


def codec_pairs(first: Pair, name: str, preset: str, targets: Sequence[float], folder: Path,
                notes: list[str]) -> list[Pair]:
    """The original of `first` encoded by a conventional codec at each target size in bytes."""
    points = anchor_points(name, preset, first.reference(), first.count, first.fps, [round(t) for t in targets], folder)
    if points[0].bytes > 1.05 * min(targets):
        notes.append(f"{name} cannot make {first.clip} as small as {min(targets):,.0f} bytes: its smallest is "
                     f"{points[0].bytes:,}")
    return [_anchor(first, f"{name} q{point.quality}", name, point.open(), point.bytes, "elementary stream",
                    {"preset": preset, "quality": point.quality, "command": point.command}) for point in points]


def explicit_pairs(first: Pair, targets: Iterable[float], backbone: Backbone, folder: Path) -> list[Pair]:
    """The original of `first` as quantised latents of the model at each target size in bytes."""
    logger.info("anchor explicit of %s", first.clip)
    frames = np.stack([frame for _, frame in zip(range(first.count), first.reference(), strict=False)])
    made = []
    for path in explicit.encode(media.Clip(frames, first.fps), backbone, [round(t) for t in targets], folder):
        decoded = folder / path.stem
        shutil.rmtree(decoded, ignore_errors=True)
        media.write_frames(decoded, explicit.decode_file(path, backbone).frames)
        made.append(_anchor(
            first, f"explicit {path.stem}", "explicit", decoded, path.stat().st_size, "file",
            {"preset": backbone.name, "quality": path.stem,
             "command": "VAE latents, uniform step, static table per channel (vov.evaluation.explicit)"}))
    return made


def _anchor(first: Pair, name: str, codec_name: str, decoded: object, size: int, source: str, detail: dict) -> Pair:
    """A pair of `first`'s original and another reproduction of it."""
    return dataclasses.replace(first, name=name, codec=codec_name, decoded=decoded, bytes=float(size), bpp=None,
                               rate_source=source, detail=detail, header=None)
