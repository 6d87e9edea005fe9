"""Packs a folder of media into little more than training needs: shrunk stills, shrunk clips, one JSON index.

    pack/index.json   a list of items: path, source, caption, and
                      of a still: span [start, end) in stills.bin, held_out
                      of a clip: file, frames, held_from (its frames from there on are never trained on)
    pack/stills.bin   JPEG files one after another
    pack/clips/*.mp4  H.264 with full chroma, 160 pixels on the short side

A twentieth of every source is held out: every twentieth still, and the end of each source's last clip.
"""

from __future__ import annotations

import functools
import json
import logging
import multiprocessing
import os
import subprocess
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from vov import VovError
from vov.evaluation.anchors import ffmpeg
from vov.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, FrameSource, read_clip, read_image, resize
from vov.runtime.files import atomic, write_bytes

log = logging.getLogger(__name__)
CAPTIONS = Path(__file__).with_name("captions.tsv")
MORE_CAPTIONS = ("captions_more.tsv", "captions_clips.tsv")  # in the media folder
LEVEL, SMALLEST = 0.8, 112  # each size is this share of the one above, down to this many pixels on the short side
CUT = 28  # a mean change between frames of more than this many 8-bit levels is a cut
SHORTEST = 9  # frames of a run between cuts that are worth keeping
FEW = {"span": 200, "file": 4}  # stills, clips that one process reads as fast as several
HELD_OUT_EVERY = 20
CLIP_SHORT_SIDE = 160
WHOLE_CLIP = 17  # the fewest frames worth holding out of a source of some length
# Larger pictures are shrunk to this many pixels on the short side; sources not named here keep theirs.
STILL_SHORT_SIDE = {"aquarium": 320, "budgie_backgrounds": 720, "caltech101": 176, "openimages": 384,
                    "udacity_lanelines": 384}
# Long or nearly static clips give only as many frames as they have motion to show.
CLIP_FRAMES = {"bottle-detection.mp4": 100, "one-by-one-person-detection.mp4": 140, "car-detection.mp4": 160,
               "tears-of-steel-battle-clip-medium.webm": 800}
FLOWERS = {"roses": "a rose", "tulips": "tulips", "sunflowers": "a sunflower", "daisy": "a daisy"}


def _caption_table(path: Path) -> dict[str, str]:
    """Lines `path TAB caption` as a dictionary; '#' starts a comment."""
    rows = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        name, tab, caption = line.partition("\t")
        if not tab:
            raise VovError(f"{path}, line {number}: no tab between path and caption; write path<TAB>caption")
        rows[name] = caption.strip()
    return rows


def read_captions(media: Path) -> dict[str, str]:
    """Relative path → caption for every still and clip under `media` that is to be used.

    Captions come from captions.tsv beside this file, from MORE_CAPTIONS in the media folder, and, for the flowers, from
    the species in their licence file. Raises VovError when nothing is found.
    """
    captions = _caption_table(CAPTIONS)
    for name in MORE_CAPTIONS:
        if (media / name).is_file():
            captions |= _caption_table(media / name)
    flowers = media / "flowers" / "LICENSE.txt"
    if flowers.is_file():
        for line in flowers.read_text(encoding="utf-8", errors="replace").splitlines():
            species, _, rest = line.partition("/")
            if rest[:1].isdigit():
                captions["flowers/" + rest.split(" ")[0]] = "a photograph of " + FLOWERS.get(species, "a " + species)
    found = {p: c for p, c in captions.items() if c and (media / p).is_file()}
    if not found:
        raise VovError(f"{media}: none of the captioned media are here; MEDIA must name the folder that holds "
                       "flowers/, openimages/, …, as models/pretraining/captions.tsv lists them")
    return found


def source_of(path: str) -> str:
    """The source of a medium: its first folder; of clips3, which gathers many, its first two."""
    parts = path.split("/")
    return "/".join(parts[:2]) if parts[0] == "clips3" else parts[0]


def pack_still(path: Path, short_side: int) -> bytes:
    """JPEG bytes of a picture, shrunk with Lanczos to `short_side` where it is larger, else the file's own bytes."""
    with Image.open(path) as picture:
        small = min(picture.size) <= short_side
        if small and picture.format == "JPEG" and picture.mode == "RGB":
            return path.read_bytes()
    picture = Image.fromarray(read_image(path))
    if not small:
        scale = short_side / min(picture.size)
        picture = picture.resize([round(s * scale) for s in picture.size], Image.Resampling.LANCZOS)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=84, subsampling=0)
    return stream.getvalue()


def pack_clip(source: Path, target: Path, limit: int) -> int:
    """Shrinks a clip to CLIP_SHORT_SIDE, at most `limit` frames; returns how many there are.

    The clips of clips3 were shrunk already: encoding them again would only lose."""
    if "clips3" in source.parts:
        write_bytes(target, source.read_bytes())
        return len(FrameSource(target))
    size = f"scale='if(gt(iw,ih),-2,{CLIP_SHORT_SIDE})':'if(gt(iw,ih),{CLIP_SHORT_SIDE},-2)':flags=lanczos"
    with atomic(target) as temporary:
        command = [ffmpeg(), "-v", "error", "-y", "-i", str(source), "-map", "0:V:0", "-an", "-frames:v", str(limit),
                   "-vf", size, "-c:v", "libx264", "-preset", "slower", "-crf", "14", "-pix_fmt", "yuv444p",
                   "-threads", "1", "-f", "mp4", str(temporary)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode:
            raise VovError(f"{source}: ffmpeg cannot read this clip ({done.stderr.strip()[-200:]}); fetch it anew")
    return len(FrameSource(target))


def hold_out(items: list[dict]) -> None:
    """Marks a twentieth of every source, in the items' order."""
    for source in sorted({i["source"] for i in items}):
        stills = [i for i in items if i["source"] == source and "span" in i]
        for number, item in enumerate(stills, 1):
            item["held_out"] = number % HELD_OUT_EVERY == 0 or (number == len(stills) < HELD_OUT_EVERY)
        clips = [i for i in items if i["source"] == source and "file" in i]
        if clips:
            total = sum(i["frames"] for i in clips)
            tail = max(WHOLE_CLIP, total // HELD_OUT_EVERY) if total >= 5 * WHOLE_CLIP else 1
            clips[-1]["held_from"] = max(0, clips[-1]["frames"] - tail)


def prepare(media: Path, pack: Path, limit: int = 0) -> list[dict]:
    """Writes the pack, always in the same order; `limit` takes only so many items of each source (a dry run).

    The index is written last: a pack with an index is complete. Raises VovError for media that cannot be read.
    """
    captions, items, counts = read_captions(media), [], {}
    (pack / "clips").mkdir(parents=True, exist_ok=True)
    with atomic(pack / "stills.bin") as temporary, temporary.open("wb") as blob:
        for path in sorted(captions):
            source, suffix = source_of(path), Path(path).suffix.lower()
            counts[source, suffix] = counts.get((source, suffix), 0) + 1
            if limit and counts[source, suffix] > limit:
                continue
            item = {"path": path, "source": source, "caption": captions[path]}
            if suffix in IMAGE_SUFFIXES:
                start = blob.tell()
                blob.write(pack_still(media / path, STILL_SHORT_SIDE.get(source, 10**6)))
                items.append(item | {"span": [start, blob.tell()]})
            elif suffix in VIDEO_SUFFIXES:
                name = f"{source.replace('/', '-')}-{Path(path).stem}.mp4"
                frames = pack_clip(media / path, pack / "clips" / name, CLIP_FRAMES.get(Path(path).name, 600))
                items.append(item | {"file": name, "frames": frames})
    hold_out(items)
    with atomic(pack / "index.json") as temporary:
        temporary.write_text(json.dumps(items, indent=0), encoding="utf-8")
    log.info("%d stills, %d clips, %d frames in %s", sum("span" in i for i in items), sum("file" in i for i in items),
             sum(i.get("frames", 0) for i in items), pack)
    return items


def read_index(pack: Path) -> list[dict]:
    """The items of a pack. Raises VovError when there is none."""
    if not (pack / "index.json").is_file():
        raise VovError(f"PACK={pack}: no packed media here; make them with STEPS=prepare MEDIA=<folder> "
                       "bash models/pretraining/pretrain.sh")
    return json.loads((pack / "index.json").read_text(encoding="utf-8"))


def captions_of(items: list[dict]) -> list[str]:
    """Every caption once, sorted, after the empty one: a caption's index is its number everywhere in training."""
    return ["", *sorted({i["caption"] for i in items})]


def sizes_of(frames: np.ndarray) -> list[np.ndarray]:
    """uint8 [T, h, w, 3] at its own size and at smaller ones, LEVEL apart, the shortest side SMALLEST or more."""
    height, width = frames.shape[1:3]
    scales = [1.0]
    while min(height, width) * scales[-1] * LEVEL >= SMALLEST:
        scales.append(scales[-1] * LEVEL)
    last = SMALLEST / min(height, width)
    if scales[-1] > 1.08 * last:
        scales.append(last)
    return [resize(frames, round(width * s), round(height * s)) for s in scales]


def runs_between_cuts(frames: np.ndarray) -> list[tuple[int, int]]:
    """(first, last + 1) of the stretches of [T, h, w, 3] without a cut that are long enough to train on."""
    small = frames[:, ::8, ::8].astype(np.float32)
    change = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
    edges = [0, *(np.flatnonzero(change > CUT) + 1).tolist(), len(frames)]
    return [(a, b) for a, b in pairwise(edges) if b - a >= SHORTEST]


def read_item(pack: Path, held_out: bool, item: dict) -> tuple[list[np.ndarray], list[tuple[int, int]]]:
    """An item's frames at several sizes, and its runs; no runs when too few of its frames are (not) held out."""
    if "span" in item:
        with (pack / "stills.bin").open("rb") as blob:
            blob.seek(item["span"][0])
            data = blob.read(item["span"][1] - item["span"][0])
        with Image.open(BytesIO(data)) as picture:
            return sizes_of(np.asarray(picture.convert("RGB"))[None]), [(0, 1)]
    frames = read_clip(pack / "clips" / item["file"]).frames
    kept = item.get("held_from", len(frames))
    frames = frames[kept:] if held_out else frames[:kept]
    return (sizes_of(frames), runs_between_cuts(frames)) if len(frames) >= SHORTEST else ([], [])


def read_sizes(pack: Path, items: list[dict], held_out: bool) -> Iterator[tuple]:
    """`read_item` of every item, in order, by as many processes as there are cores."""
    read = functools.partial(read_item, pack, held_out)
    if len(items) < FEW["file" if items and "file" in items[0] else "span"]:
        yield from map(read, items)
        return
    with multiprocessing.get_context("fork").Pool(min(16, os.cpu_count() or 1)) as pool:
        yield from pool.imap(read, items, chunksize=1 if "file" in items[0] else 64)
