"""What the scale commands of both trees do: choose noise, write the file, decode it from its bytes alone, measure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vov import bitstream
from vov.bitstream import Bitstream
from vov.codec import Source, decode_file
from vov.config import FitConfig
from vov.files import write_json
from vov.media import restore_geometry
from vov.metrics import psnr
from vov.model.backbone import Backbone
from vov.results import Clock, report, save_items
from vov.scaling.search import scale
from vov.scaling.settings import ScalingConfig


def scale_command(stream: Bitstream, backbone: Backbone, sources: Sequence[Source], settings: ScalingConfig,
                  path: Path) -> dict:
    """What the commands of both trees do: choose, write `path`, decode it from the bytes alone, measure.

    Returns `results.report`'s result, with `encoder_psnr`: that of the frames the encoder saw, before any file.
    """
    header, clock = stream.header, Clock()
    bar = tqdm(unit="step", desc=path.stem, disable=None)
    with bar:
        scaled, seen = clock.time("choose", lambda: scale(stream, backbone, sources, settings,
                                                          lambda step, x: bar.update()))
    bitstream.write(path, scaled)
    clips = clock.time("decode", decode_file, path, backbone)
    save_items(path.parent, path.stem, [item.name for item in stream.items], clips)
    geometry = FitConfig(width=header.width, height=header.height, resize=header.fit)
    result = report(path, clips, sources, geometry, clock.seconds)
    restored = [restore_geometry(frames, item.original_width, item.original_height, header.fit)
                for frames, item in zip(seen, stream.items, strict=True)]
    targets = [source.reference(header.width, header.height, header.fit) for source in sources]
    result["encoder_psnr"] = float(np.mean([psnr(*pair) for pair in zip(targets, restored, strict=True)]))
    result["scaling"] = {k: v for k, v in vars(settings).items() if k in ScalingConfig.__dataclass_fields__}
    write_json(path.with_suffix(".json"), result)
    return result
