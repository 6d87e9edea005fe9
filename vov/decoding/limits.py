"""How much decoding a file may ask for: a few bytes of header can name days of work, so it is bounded before any.

    pass       width × height × frames that the model makes at a time: memory, and time beyond the square of it
    steps      of the sampler; none in use takes more than the 1,000 levels that such models are trained on
    work       pixels × steps of all passes; a sequence counts one, since each of its chunks takes bytes of its own

DECODE_LIMIT multiplies the three. At 1 the largest video is 128 frames of 1080p, the largest picture 4096×4096.
"""

from __future__ import annotations

import math

from vov import VovError
from vov.bitstream import Bitstream
from vov.bitstream.header import MAX_PIXELS, Header
from vov.media.geometry import Geometry
from vov.model.flow import sigma_grid

MIN_FPS = 0.01  # of what an mp4 can hold
MAX_ENLARGED = 256  # pixels shown for each that the model makes
MAX_PASS = {"image": 1 << 24, "video": 1 << 28}  # pixels
MAX_STEPS = 1000
MAX_WORK = 3e10  # pixel-steps: on an H200, where Wan2.1-1.3B takes 0.57 s for 81 × 480 × 832, nine minutes


def check_file(stream: Bitstream, source: str, limit: float = 1.0) -> None:
    """Raises VovError when decoding would ask for what no sensible file asks for.

    Args:
        source: names the file in errors.
        limit: DECODE_LIMIT, see `check_work`. Rates and original sizes are bounded whatever it is.
    """
    header = stream.header
    if header.num_frames > 1 and header.fps < MIN_FPS:
        raise VovError(f"{source}: fps: {header.fps:g} frames per second is no video; set `fps` to {MIN_FPS} or more, "
                       "or the file is damaged")
    shown = stream.items[:1] if stream.sequence else stream.items  # a sequence is shown chunk by chunk
    check_work(header, len(shown), source, limit)
    sigma_grid(header.decode_steps, header.shift or 1.0)
    total = 0
    for item in shown:
        size = item.original_width, item.original_height
        width, height = Geometry(size, (header.width, header.height), header.resize).shown
        total += width * height * header.num_frames
        if width * height > MAX_ENLARGED * header.width * header.height or total > MAX_PIXELS:
            raise VovError(f"{source}: original size: {size[0]}×{size[1]} is too large for {header.num_frames} frames "
                           f"coded as {header.width}×{header.height}; use `resize`=crop or a smaller source, or the "
                           "file is damaged")


def check_work(header: Header, passes: int, source: str, limit: float = 1.0) -> None:
    """Raises VovError when so many passes are more than `limit` (DECODE_LIMIT) times a bound above; 0: no bounds."""
    steps = len(header.sigmas) - 1 if header.sigmas else header.decode_steps
    pixels = header.width * header.height * header.num_frames
    asked = max(pixels / MAX_PASS[header.tree], steps / MAX_STEPS, pixels * steps * passes / MAX_WORK)
    if limit and asked > limit:
        times = f", {passes} times" if passes > 1 else ""
        raise VovError(f"{source}: decoding asks for {header.num_frames} frames of {header.width}×{header.height} in "
                       f"{steps} sampler steps{times}: {asked:.3g} times what is usual at most; set "
                       f"`decode_limit`={math.ceil(asked)} if that is meant")
