"""The only pixel I/O: images, animations, video files and frame folders to and from uint8 RGB [T, H, W, 3].

    info      what is known before a frame is read
    stills    pictures through Pillow: depth, alpha, EXIF, colour profiles; folders of frames
    probe     what a video file says about itself, through PyAV
    video     its frames: upright, square pixels, progressive, SDR
    timing    the rate behind time stamps, and another one
    source    FrameSource: frames of any medium, from any frame on; read_clip
    audio     packets of sound, out and in        writer   mp4
    geometry  crop, pad, stretch, and back
"""

from collections.abc import Callable

from vov.media.geometry import (
    Geometry,
    contact_sheet,
    fit_geometry,
    geometry_for,
    refuse_other_size,
    resize,
    restore_geometry,
    side_by_side,
    view,
)
from vov.media.info import Info, with_av
from vov.media.source import Clip, FrameSource, is_moving, read_clip
from vov.media.stills import (
    IMAGE_SUFFIXES,
    image_files,
    natural_key,
    read_image,
    refuse_no_picture,
    write_frames,
    write_image,
)
from vov.media.timing import DEFAULT_FPS

VIDEO_SUFFIXES = {".mp4", ".mkv", ".webm", ".mov", ".avi", ".y4m", ".m4v", ".mpg", ".ts", ".gif"}

__all__ = ["DEFAULT_FPS", "IMAGE_SUFFIXES", "VIDEO_SUFFIXES", "Clip", "FrameSource", "Geometry", "Info",
           "contact_sheet", "fit_geometry", "geometry_for", "image_files", "is_moving", "natural_key", "read_clip",
           "read_image", "refuse_no_picture", "refuse_other_size", "resize", "restore_geometry", "side_by_side",
           "view", "write_frames", "write_image", "write_video"]


def __getattr__(name: str) -> Callable[..., None]:
    """`write_video`, which needs PyAV, when it is first used."""
    if name == "write_video":
        return with_av("writer").write_video
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
