"""Packed media on the training device, and augmented batches of them.

Test media are larger pictures shrunk with a Lanczos filter, so every still and clip is kept at several such sizes, and
a training view is a crop at one of them: no view is magnified or blurred. Motion made from stills is the exception: it
is sampled bicubically.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vov import VovError

from .pack import captions_of, read_index, read_sizes

# Share of each source in a batch of stills and in a batch of real clips; a source that is not packed leaves its share
# to the others. Flowers and caltech101, 62 % of the pictures, stay at a quarter each at most.
STILL_SHARES = {"caltech101": .18, "flowers": .14, "openimages": .12, "weather": .10, "aquarium": .10, "coco_cc": .09,
                "budgie_backgrounds": .07, "clothing": .05, "grocerystore": .06, "lomiri_wallpapers": .05,
                "raccoon": .03, "udacity_lanelines": .01}
ROBOTS = {"tidybot2": .05, "diffusion_vla": .04, "ricl_vla": .025, "f3rm": .02, "gated_memory_policy": .015,
          "robopanoptes": .02, "dex_umi": .015, "umi_ft": .015, "tiptop": .01, "umi_on_legs": .005, "uva": .01}
OTHERS = {"gopro_gpmf": .06, "mdn_learning_area": .04, "ms_universal_samples": .03, "mapillary_tools": .02,
          "trainbot": .03, "rpi_buggy": .02, "rpi_music": .015, "rpi_sound": .01, "sleap": .01, "exoplayer": .01}
CLIP_SHARES = {"davis": .30, "sam2": .07, "cosmos": .06, "intel_sample_videos": .05, "mdn_videos": .06,
               "counting": .04, "tfjs": .02, "dlib": .01, "udacity_lanelines": .015, "udacity_vehicles": .015,
               "tum_desk": .005} | {f"clips3/{k}": share for k, share in (ROBOTS | OTHERS).items()}
STEP_ODDS = (0.5, 0.3, 0.2)  # of taking every, every second, every third frame


class Atlas:
    """Pictures and clips of many sizes in one tensor, cropped by index arithmetic.

    One entry is one size of a still or of a run of frames: where it starts (in pixels), frames, height, width, caption,
    the item that it shows, and that item's weight.
    """

    def __init__(self) -> None:
        self.chunks: list[np.ndarray] = []
        self.rows: list[tuple[int, int, int, int, int, int]] = []
        self.weights: list[float] = []
        self.items = self.end = 0

    def add(self, sizes: list[np.ndarray], runs: list[tuple[int, int]], caption: int, weight: float) -> None:
        """One item: the same frames at several sizes, uint8 [T, h, w, 3], and its runs as (first, last + 1)."""
        total = sum(math.sqrt(b - a) for a, b in runs)
        for first, last in runs:
            for frames in sizes:
                _, h, w, _ = frames.shape
                self.rows.append((self.end, last - first, h, w, caption, self.items))
                self.weights.append(weight * math.sqrt(last - first) / total)
                self.chunks.append(np.ascontiguousarray(frames[first:last]).reshape(-1, 3))
                self.end += (last - first) * h * w
            self.items += 1

    def finish(self, device: str) -> Atlas:
        """Moves everything to the device; nothing can be added any more."""
        self.pixels = torch.from_numpy(np.concatenate(self.chunks)).to(device)
        self.table = torch.tensor(self.rows, device=device)
        self.weight = torch.tensor(self.weights, device=device)
        self.odds: dict[tuple[int, ...], torch.Tensor] = {}
        del self.chunks
        return self

    def chances(self, frames: int, height: int, width: int) -> torch.Tensor:
        """Chance of every entry for crops of this shape: its item's weight, shared by those of its sizes that fit."""
        key = (frames, height, width)
        if key not in self.odds:
            _, t, h, w, _, item = self.table.unbind(1)
            fits = ((t >= frames) & (h >= height) & (w >= width)).float()
            if not fits.any():
                raise VovError(f"no packed media hold {frames} frames of {width}×{height}; pack more, or train smaller")
            each = torch.zeros(self.items, device=fits.device).index_add_(0, item, fits)
            self.odds[key] = self.weight * fits / each[item].clamp_min(1)
        return self.odds[key]

    def crop(self, entry: torch.Tensor, frame: torch.Tensor, y: torch.Tensor, x: torch.Tensor,
             size: tuple[int, int]) -> torch.Tensor:
        """uint8 [n, t, H, W, 3] of entries [n] at frames [n, t], rows from y [n] and columns from x [n]."""
        start, _, h, w, *_ = (c[:, None, None, None] for c in self.table[entry].unbind(1))
        rows = torch.arange(size[0], device=entry.device)[None, None, :, None] + y[:, None, None, None]
        columns = torch.arange(size[1], device=entry.device)[None, None, None] + x[:, None, None, None]
        return self.pixels[start + (frame[:, :, None, None] * h + rows) * w + columns]


class Bank:
    """All media of a pack on one device: `stills` and `clips` (both Atlas), `captions` (index 0 is the empty one)."""

    def __init__(self, pack: Path, device: str, held_out: bool = False, clips: bool = True):
        items = read_index(pack)
        self.device, self.captions = device, captions_of(items)
        ids = {c: k for k, c in enumerate(self.captions)}
        stills = [i for i in items if "span" in i and i["held_out"] == held_out]
        videos = [i for i in items if "file" in i and (not held_out or "held_from" in i)] if clips else []
        self.stills = self._fill(stills, read_sizes(pack, stills, held_out), ids, STILL_SHARES)
        self.clips = self._fill(videos, read_sizes(pack, videos, held_out), ids, CLIP_SHARES) if videos else None
        self.seed(0)

    def _fill(self, items: list[dict], read: Iterator[tuple], ids: dict[str, int], shares: dict[str, float]) -> Atlas:
        atlas = Atlas()
        for item, (sizes, runs) in zip(items, read, strict=True):
            same = sum(i["source"] == item["source"] for i in items)
            if runs:
                atlas.add(sizes, runs, ids[item["caption"]], shares.get(item["source"], 0.02) / same)
        return atlas.finish(self.device)

    def seed(self, seed: int) -> None:
        """Every draw from now on comes from this seed."""
        self.generator = torch.Generator(self.device).manual_seed(seed)

    def _uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device) * (high - low) + low

    def _crops(self, atlas: Atlas, n: int, frames: int, size: tuple[int, int], step: torch.Tensor) -> tuple:
        """n random crops: uint8 [n, frames, H, W, 3] and caption indices [n]; `step` [n] frames apart."""
        chances = atlas.chances(int(frames), *size)
        entry = torch.multinomial(chances, n, replacement=True, generator=self.generator)
        _, length, h, w, caption, _ = atlas.table[entry].unbind(1)
        step = torch.minimum(step, (length - 1) // max(1, frames - 1)).clamp_min(1)
        place = lambda room: (self._uniform(0, 1, n) * (room + 1)).long().minimum(room)  # noqa: E731
        start = place(length - 1 - (frames - 1) * step)
        index = start[:, None] + step[:, None] * torch.arange(frames, device=self.device)
        return atlas.crop(entry, index, place(h - size[0]), place(w - size[1]), size), caption

    def _finish(self, x: torch.Tensor) -> torch.Tensor:
        """[n, t, H, W, 3] in levels → [n, 3, t, H, W] in [−1, 1], mirrored at random, each sample's colours varied."""
        n = len(x)
        x = x.permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        one = (n, 1, 1, 1, 1)
        x = torch.where(self._uniform(0, 1, n).view(one) < 0.5, x.flip(-1), x)
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * self._uniform(0.7, 1.25, n).view(one)
        return (x * self._uniform(0.8, 1.12, n).view(one) + self._uniform(-0.1, 0.1, n).view(one)).clamp(-1, 1)

    def draw_stills(self, n: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """n augmented stills [n, 3, 1, H, W] in [−1, 1] and their caption indices [n]."""
        crops, caption = self._crops(self.stills, n, 1, size, torch.ones(n, dtype=torch.long, device=self.device))
        return self._finish(crops), caption

    def draw_clips(self, n: int, t: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """n real clips [n, 3, t, H, W]: a random run, start, frame step, direction of time and crop."""
        odds = torch.tensor(STEP_ODDS, device=self.device)
        step = 1 + torch.multinomial(odds, n, replacement=True, generator=self.generator)
        crops, caption = self._crops(self.clips, n, t, size, step)
        backwards = self._uniform(0, 1, n).view(n, 1, 1, 1, 1) < 0.5
        return self._finish(torch.where(backwards, crops.flip(1), crops)), caption

    def draw_motion(self, n: int, t: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """n clips [n, 3, t, H, W] made from stills: a moving camera, a smooth warp, a second still drifting across."""
        back, caption = self._moving(n, t, size)
        front, _ = self._moving(n, t, size)
        clock = torch.linspace(-1, 1, t, device=self.device) * (t / 17)
        ys = torch.linspace(-1, 1, size[0], device=self.device)[:, None]
        xs = torch.linspace(-1, 1, size[1], device=self.device)[None]
        at, speed = self._uniform(-0.7, 0.7, 2, n, 1), self._uniform(-1.0, 1.0, 2, n, 1)
        radius = self._uniform(0.15, 0.7, 2, n, 1, 1, 1)
        cy, cx = (at + speed * clock)[..., None, None]
        distance = ((ys - cy) / radius[0]) ** 2 + ((xs - cx) / radius[1]) ** 2
        shown = (self._uniform(0, 1, n) < 0.6).view(n, 1, 1, 1)
        mask = (torch.sigmoid((1 - distance) * 12) * shown)[..., None]
        return self._finish(back * (1 - mask) + front * mask), caption

    def _moving(self, n: int, t: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """n stills seen by a moving camera: levels [n, t, H, W, 3] and captions. Few move fast, most slowly."""
        big = (round(size[0] * 1.35), round(size[1] * 1.35))
        crops, caption = self._crops(self.stills, n, 1, big, torch.ones(n, dtype=torch.long, device=self.device))
        clock = torch.linspace(-0.5, 0.5, t, device=self.device)[None] * (t / 17)
        pace = self._uniform(0, 1, n, 1) ** 1.5
        zoom = self._uniform(-0.02, 0.22, n, 1) + self._uniform(-0.3, 0.3, n, 1) * pace * clock
        zoom = zoom.clamp(-0.05, 0.3).exp()  # source pixels per output pixel
        angle = self._uniform(-0.1, 0.1, n, 1) + self._uniform(-0.35, 0.35, n, 1) * pace * clock
        drift = self._uniform(-90, 90, n, 1, 2) * (pace * clock)[..., None]
        bend = F.interpolate(self._uniform(-6, 6, n, 2, 4, 4), size, mode="bicubic").permute(0, 2, 3, 1)[:, None]
        phase = 6.3 * (self._uniform(0, 1, n, 1) + self._uniform(0, 1, n, 1) * clock)
        wave = (torch.sin(phase) * pace)[..., None, None, None]
        y = torch.arange(size[0], device=self.device)[:, None] + 0.5 - size[0] / 2
        x = torch.arange(size[1], device=self.device)[None] + 0.5 - size[1] / 2
        cos, sin = ((zoom * f)[..., None, None] for f in (angle.cos(), angle.sin()))
        shift = drift[..., None, None, :] + bend * wave
        places = torch.stack([cos * x - sin * y + shift[..., 0], sin * x + cos * y + shift[..., 1]], -1)
        grid = places * (2 / torch.tensor([big[1], big[0]], device=self.device))
        picture = crops[:, 0].permute(0, 3, 1, 2).float()
        out = F.grid_sample(picture, grid.flatten(1, 2), mode="bicubic", padding_mode="reflection", align_corners=False)
        return out.unflatten(2, (t, size[0])).permute(0, 2, 3, 4, 1).clamp(0, 255), caption

    def draw_video(self, n: int, t: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Two thirds real clips, one third motion made from stills."""
        made = n // 3
        real = self.draw_clips(n - made, t, size)
        if not made:
            return real
        other = self.draw_motion(made, t, size)
        return torch.cat([real[0], other[0]]), torch.cat([real[1], other[1]])
