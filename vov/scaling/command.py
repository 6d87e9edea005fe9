"""What the scale commands of both trees do: choose noise, write the file, decode it from its bytes alone, measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vov import bitstream
from vov.bitstream import Bitstream
from vov.codec import Source, decode_file
from vov.config import read_by
from vov.demand import check_work
from vov.files import content_hash, refuse_overlap, write_json
from vov.fitting import collection
from vov.fitting.settings import FitConfig
from vov.model.backbone import Backbone
from vov.outputs import Outputs
from vov.results import Clock, decoded_paths, made_from, report, save_clips, settings_of
from vov.scaling import targets
from vov.scaling.progress import Progress
from vov.scaling.search import RULES, scale
from vov.scaling.settings import ScalingConfig


def outputs_of(file: Path | None, precision: str, sources: Sequence[Source], settings: Any, path: Path,
               *parts: object, inputs: Sequence[Path] = ()) -> Outputs:
    """What `scale_command` writes: the file, its .json and what it decodes to.

    Args:
        file: that noise is added to, and the `precision` of its header; None and "" where there is none.
        sources: the originals.
        settings: a `ScalingConfig` with model options.
        path: of the new file.
        parts: further settings that shape it.
        inputs: what was read that no variable names.
    """
    decoded = decoded_paths(path.parent, path.stem, len(sources), len(sources[0].frames))
    variable = "OUTPUT" if hasattr(settings, "output") else "OUT_DIR"
    written = [path, *decoded, path.with_suffix(".json")]
    refuse_overlap(written, [*inputs, *([file] if file else []), *read_by(settings)], variable)
    content = [(one.frames.shape, one.caption, one.name if len(sources) > 1 else "", content_hash(one.frames.tobytes()),
                *([one.region.hash] if one.region else ())) for one in sources]
    shared = [collection.remember(settings.collection)] if settings.collection else []
    identity = made_from(settings, precision, file, content, settings_of(settings, ScalingConfig), *parts, *shared)
    return Outputs(path.name, written, identity, settings.overwrite, variable)


def scale_command(stream: Bitstream, load: Callable[[], Backbone], sources: Sequence[Source], settings: Any,
                  path: Path, outputs: Outputs) -> dict:
    """What the commands of both trees do: choose, write `path`, decode it from the bytes alone, measure.

    load: gives the model, if it is needed: outputs that are there are kept.
    settings: a `ScalingConfig` with model options.
    Returns `results.report`'s result, with `encoder_psnr`: that of the frames the encoder saw, before any file.
    """
    if settings.collection:
        stream = replace(stream, collection=collection.remember(settings.collection))
    header, clock, beside = stream.header, Clock(), path.with_suffix(".json")
    if outputs.complete:
        return json.loads(beside.read_bytes())
    asked = replace(header, sigmas=(), decode_steps=settings.steps) if settings.steps else header
    check_work(asked, len(stream.items), str(path), settings.decode_limit)
    targets.asked(settings)
    backbone = load()
    if outputs.has(path):
        clock.seconds["choose"] = outputs.notes["choose"]
    else:
        kept: list[Progress] = []

        def run(asked: ScalingConfig, spend: int = 0) -> tuple[Bitstream, list[np.ndarray]]:
            name = f"{asked.scaling_bytes}-{spend}" if spend else f"{asked.scaling_bytes}"
            place = outputs.record.with_name(f".search-{outputs.mark}-{name}.safetensors")
            kept.append(Progress(place, f"{outputs.identity} {RULES} {name}", backbone.device))
            return scale(stream, backbone, sources, asked, lambda step, x: bar.update(), kept[-1], spend)

        with tqdm(unit="step", desc=path.stem, disable=None) as bar:
            try:
                made = clock.time("choose", targets.choose, settings, stream, sources, backbone, run)
            except targets.OutOfReach:  # nothing of the search is worth keeping
                for one in kept:
                    one.remove()
                raise
        outputs.notes = {"encoder_psnr": targets.quality(made.frames, stream, sources),
                         "choose": clock.seconds["choose"]}
        outputs.make(path, lambda: bitstream.write(path, made.stream))
        for one in kept:
            one.remove()
    clips = clock.time("decode", decode_file, path, backbone, 0)
    save_clips(outputs, path.parent, path.stem, [item.name for item in stream.items], clips)
    geometry = FitConfig(width=header.width, height=header.height, resize=header.resize)
    result = report(path, clips, sources, geometry, clock.seconds)
    result["encoder_psnr"] = outputs.notes["encoder_psnr"]
    result["scaling"] = {k: v for k, v in vars(settings).items() if k in ScalingConfig.__dataclass_fields__}
    outputs.make(beside, lambda: write_json(beside, result))
    outputs.finish()
    return result
