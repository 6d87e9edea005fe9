"""What the scale commands of both trees do: choose noise, write the file, decode it from its bytes alone, measure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from vov import bitstream
from vov.bitstream import Bitstream
from vov.codec import Source, decode_file
from vov.files import content_hash, write_json
from vov.fitting.settings import FitConfig
from vov.media import restore_geometry
from vov.metrics import psnr
from vov.model.backbone import Backbone
from vov.outputs import Outputs
from vov.results import Clock, decoded_paths, made_from, report, save_clips, settings_of
from vov.scaling.search import scale
from vov.scaling.settings import ScalingConfig


def outputs_of(source: Path, stream: Bitstream, sources: Sequence[Source], settings: Any, path: Path) -> Outputs:
    """What `scale_command` writes: the file, its .json and what it decodes to.

    source: the file that noise is added to; stream: its contents; settings: a `ScalingConfig` with model options.
    """
    paths = [path, *decoded_paths(path.parent, path.stem, len(stream.items), stream.header.num_frames),
             path.with_suffix(".json")]
    originals = [(one.frames.shape, content_hash(one.frames.tobytes())) for one in sources]
    identity = made_from(settings, stream.header.dtype, source, originals, settings_of(settings, ScalingConfig))
    return Outputs(path.name, paths, identity, settings.overwrite, "OUTPUT")


def scale_command(stream: Bitstream, load: Callable[[], Backbone], sources: Sequence[Source], settings: ScalingConfig,
                  path: Path, outputs: Outputs) -> dict:
    """What the commands of both trees do: choose, write `path`, decode it from the bytes alone, measure.

    load: gives the model, if it is needed: outputs that are there are kept.
    Returns `results.report`'s result, with `encoder_psnr`: that of the frames the encoder saw, before any file.
    """
    header, clock, beside = stream.header, Clock(), path.with_suffix(".json")
    if outputs.complete:
        return json.loads(beside.read_bytes())
    backbone = load()
    if outputs.has(path):
        clock.seconds["choose"] = outputs.notes["choose"]
    else:
        with tqdm(unit="step", desc=path.stem, disable=None) as bar:
            scaled, seen = clock.time("choose", lambda: scale(stream, backbone, sources, settings,
                                                              lambda step, x: bar.update()))
        restored = [restore_geometry(frames, item.original_width, item.original_height, header.resize)
                    for frames, item in zip(seen, stream.items, strict=True)]
        targets = [source.reference(header.width, header.height, header.resize) for source in sources]
        outputs.notes = {"encoder_psnr": float(np.mean([psnr(*pair) for pair in zip(targets, restored, strict=True)])),
                         "choose": clock.seconds["choose"]}
        outputs.make(path, lambda: bitstream.write(path, scaled))
    clips = clock.time("decode", decode_file, path, backbone)
    save_clips(outputs, path.parent, path.stem, [item.name for item in stream.items], clips)
    geometry = FitConfig(width=header.width, height=header.height, resize=header.resize)
    result = report(path, clips, sources, geometry, clock.seconds)
    result["encoder_psnr"] = outputs.notes["encoder_psnr"]
    result["scaling"] = {k: v for k, v in vars(settings).items() if k in ScalingConfig.__dataclass_fields__}
    outputs.make(beside, lambda: write_json(beside, result))
    outputs.finish()
    return result
