"""Pretraining media: packed once on the CPU, kept whole on the GPU, augmented there.

`prepare` turns the media folder into two small files (JPEG bytes and a JSON index), so that a training machine needs
neither the folder nor a video decoder. `Bank` decodes them into uint8 tensors and draws augmented batches.
"""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

HERE = Path(__file__).parent
TILE, CLIP_H, CLIP_W = 288, 160, 288  # pixels of a stored still tile and of a stored clip frame
HELD_OUT_EVERY = 20  # every 20th flower and aquarium picture is never trained on
STILL_SHORT_SIDE = {"flowers": 227, "aquarium": 320, "budgie_backgrounds": 640, "openimages": 400}
# Long or nearly static clips give only as many frames as they have motion to show.
CLIP_FRAMES = {"bottle-detection.mp4": 100, "one-by-one-person-detection.mp4": 140, "car-detection.mp4": 160}
MAX_FRAMES = 560
# Share of each folder in a batch of stills; flowers stay below a third although they are most of the pictures.
SHARES = {"flowers": 0.3, "aquarium": 0.2, "budgie_backgrounds": 0.2, "openimages": 0.25, "udacity_lanelines": 0.05}


def read_captions(media: Path) -> dict[str, str]:
    """Relative path → caption for every still and clip under `media`; flowers are named by their species."""
    captions = {}
    for line in (HERE / "captions.tsv").read_text().splitlines():
        if not line.startswith("#"):
            path, caption = line.split("\t")
            captions[path] = caption
    one = {"roses": "a rose", "tulips": "tulips", "sunflowers": "a sunflower", "daisy": "a daisy"}
    for line in (media / "flowers" / "LICENSE.txt").read_text(errors="replace").splitlines():
        species, _, rest = line.partition("/")
        if rest.startswith(tuple("0123456789")):
            captions["flowers/" + rest.split(" ")[0]] = "a photograph of " + one.get(species, "a " + species)
    return {p: c for p, c in captions.items() if c and (media / p).is_file()}


def _jpeg(picture: Image.Image, short_side: int, quality: int) -> bytes:
    scale = short_side / min(picture.size)
    if scale < 1:
        picture = picture.resize([round(s * scale) for s in picture.size], Image.Resampling.LANCZOS)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _clip_frames(path: Path, limit: int) -> list[Image.Image]:
    from decord import VideoReader

    reader = VideoReader(str(path), num_threads=1)
    return [Image.fromarray(reader[i].asnumpy()) for i in range(min(len(reader), limit))]


def prepare(media: Path, pack: Path) -> None:
    """Write `pack`/media.bin and media.json: about 42 MiB from the whole folder, always in the same order."""
    pack.mkdir(parents=True, exist_ok=True)
    captions, items, blob = read_captions(media), [], bytearray()
    for path in sorted(captions):
        folder, name = path.split("/")
        if name.endswith((".jpg", ".png")):
            frames, size, quality = [Image.open(media / path).convert("RGB")], STILL_SHORT_SIDE.get(folder, 400), 82
        else:
            limit = CLIP_FRAMES.get(name, MAX_FRAMES)
            frames, size, quality = _clip_frames(media / path, limit), CLIP_H, 76
        ends = []
        for frame in frames:
            blob += _jpeg(frame, size, quality)
            ends.append(len(blob))
        items.append({"path": path, "caption": captions[path], "ends": ends})
    (pack / "media.bin").write_bytes(blob)
    (pack / "media.json").write_text(json.dumps(items))
    print(f"{len(items)} items, {sum(len(i['ends']) for i in items)} frames, {len(blob) / 2**20:.1f} MiB")


def _open(blob: bytes, span: tuple[int, int]) -> Image.Image:
    return Image.open(BytesIO(blob[slice(*span)])).convert("RGB")


def _cover(picture: Image.Image, width: int, height: int) -> list[np.ndarray]:
    """Crops [height, width, 3] that together cover the picture at the scale where the crop just fits inside it."""
    scale = max(width / picture.width, height / picture.height)
    w, h = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
    picture = np.asarray(picture.resize((w, h), Image.Resampling.LANCZOS))
    rows, cols = ({0, h - height} if h > 1.1 * height else {0}), ({0, w - width} if w > 1.1 * width else {0})
    return [picture[y : y + height, x : x + width] for y in sorted(rows) for x in sorted(cols)]


class Bank:
    """All media as uint8 on one device.

    stills [N, 3, 288, 288], frames [M, 3, 160, 288] (several crops of one clip follow each other), captions: list of
    str; index 0 is the empty caption.
    """

    def __init__(self, pack: Path, device: str, held_out: bool = False, limit: int = 0):
        items, blob = json.loads((pack / "media.json").read_text()), (pack / "media.bin").read_bytes()
        self.device, self.captions = device, ["", *sorted({i["caption"] for i in items})]
        ids = {c: k for k, c in enumerate(self.captions)}
        tiles, tile_ids, weights, frames, runs, counts, end = [], [], [], [], [], {}, 0
        for item in items:
            folder, caption = item["path"].split("/")[0], ids[item["caption"]]
            starts, end = [end, *item["ends"][:-1]], item["ends"][-1]
            counts[folder] = counts.get(folder, 0) + 1
            is_held_out = folder in ("flowers", "aquarium") and counts[folder] % HELD_OUT_EVERY == 0
            is_clip = len(starts) > 1
            if is_held_out != held_out or (held_out and is_clip) or (limit and counts[folder] > limit):
                continue
            spans = list(zip(starts, item["ends"], strict=True))
            if is_clip:
                with ThreadPoolExecutor() as pool:
                    crops = list(pool.map(lambda s: _cover(_open(blob, s), CLIP_W, CLIP_H), spans))
                for track in zip(*crops, strict=True):
                    runs += self._split_at_cuts(track, len(frames), caption)
                    frames += track
            else:
                picture = _open(blob, spans[0])
                crops = _cover(picture, TILE, TILE)
                if min(picture.size) > 1.4 * TILE and not held_out:  # fine detail: tiles at full resolution too
                    w, h = picture.size
                    full = np.asarray(picture)
                    crops += [
                        full[y : y + TILE, x : x + TILE]
                        for y in np.linspace(0, h - TILE, math.ceil(h / TILE)).astype(int)
                        for x in np.linspace(0, w - TILE, math.ceil(w / TILE)).astype(int)
                    ]
                tiles += crops
                tile_ids += [caption] * len(crops)
                weights += [(folder, 1 / len(crops))] * len(crops)
        total = {f: sum(w for g, w in weights if g == f) for f in SHARES}
        self.stills = self._stack(tiles)
        self.still_captions = torch.tensor(tile_ids, device=device)
        self.still_weights = torch.tensor([SHARES[f] * w / total[f] for f, w in weights], device=device)
        if not held_out:
            self.frames = self._stack(frames)
            # One row a run between cuts: first frame, length, caption. Runs weigh as the root of their length, so that
            # twenty short clips of signing do not drown the long ones, nor the other way round.
            self.runs = torch.tensor(runs, device=device)
            self.run_weights = self.runs[:, 1].float().sqrt()

    def _stack(self, arrays: list[np.ndarray]) -> torch.Tensor:
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().to(self.device)

    @staticmethod
    def _split_at_cuts(track: tuple[np.ndarray, ...], first: int, caption: int) -> list[tuple[int, int, int]]:
        small = np.stack([f[::8, ::8].astype(np.float32) for f in track])
        change = np.abs(np.diff(small, axis=0)).mean(axis=(1, 2, 3))
        edges = [0, *(np.flatnonzero(change > 28) + 1).tolist(), len(track)]
        return [(first + a, b - a, caption) for a, b in pairwise(edges) if b - a >= 17]

    def seed(self, seed: int) -> None:
        """Every draw below comes from this generator."""
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.choice = random.Random(seed)

    def _uniform(self, low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.device) * (high - low) + low

    def _grid(self, source: tuple[int, int], size: tuple[int, int], n: int, zoom: tuple[float, float], angle: float):
        """Random view: scale s (source pixels per output pixel), rotation, centre; returns log s, angle, centre [n, 2].

        `zoom` is the least scale and the largest as a share of what the source allows. Test pictures are larger ones
        shrunk, so training views are too: a magnified view has none of the fine detail that the VAE must learn.

        The centre keeps the unrotated window inside the source."""
        h, w = source
        top = min(w / size[1], h / size[0]) * zoom[1]
        low = min(zoom[0], top)
        scale = torch.exp(self._uniform(math.log(low), math.log(top), n))
        slack = torch.stack([w - scale * size[1], h - scale * size[0]], 1).clamp_min(0) / 2
        return scale.log(), self._uniform(-angle, angle, n), self._uniform(-1, 1, n, 2) * slack

    def _render(self, pictures: torch.Tensor, log_scale, angle, centre, size, warp=None) -> torch.Tensor:
        """pictures uint8 [n, 3, h, w] seen through views [n] → float [n, 3, H, W] in [-1, 1].

        Sampled at twice the size and averaged, so that zooming out does not alias."""
        h, w = pictures.shape[-2:]
        ys = torch.arange(2 * size[0], device=self.device) / 2 - size[0] / 2 + 0.25
        xs = torch.arange(2 * size[1], device=self.device) / 2 - size[1] / 2 + 0.25
        y, x = torch.meshgrid(ys, xs, indexing="ij")
        s, c = (log_scale.exp() * f for f in (angle.sin(), angle.cos()))
        gx = c[:, None, None] * x - s[:, None, None] * y + centre[:, 0, None, None]
        gy = s[:, None, None] * x + c[:, None, None] * y + centre[:, 1, None, None]
        grid = torch.stack([gx * 2 / w, gy * 2 / h], -1)
        if warp is not None:
            grid = grid + warp
        out = F.grid_sample(pictures.float() / 127.5 - 1, grid, padding_mode="reflection", align_corners=False)
        return F.avg_pool2d(out, 2)

    def _sharpen(self, x: torch.Tensor, n: int) -> torch.Tensor:
        """Undo, by a random amount for each of n samples, the blur of sampling: x [n·t, 3, H, W] less its blurred self.

        Clips and pictures are usually shrunk with a Lanczos filter, which keeps more detail than averaging does."""
        weights = torch.tensor([0.25, 0.5, 0.25], device=self.device)
        kernel = (weights[:, None] * weights).expand(3, 1, 3, 3)
        blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
        amount = self._uniform(0, 1.0, n).repeat_interleave(x.shape[0] // n).view(-1, 1, 1, 1)
        return (x + amount * (x - blurred)).clamp(-1, 1)

    def _colour(self, x: torch.Tensor, n: int) -> torch.Tensor:
        """One gain, offset and saturation for each of n samples; x [n, 3, ...] in [-1, 1]."""
        shape = (n, *[1] * (x.ndim - 1))
        grey = x.mean(1, keepdim=True)
        x = grey + (x - grey) * self._uniform(0.6, 1.3, n).view(shape)
        return (x * self._uniform(0.75, 1.15, n).view(shape) + self._uniform(-0.12, 0.12, n).view(shape)).clamp(-1, 1)

    def _flip(self, x: torch.Tensor) -> torch.Tensor:
        mirror = (torch.rand(x.shape[0], generator=self.generator, device=self.device) < 0.5).view(
            -1, *[1] * (x.ndim - 1)
        )
        return torch.where(mirror, x.flip(-1), x)

    def _pick(self, n: int) -> torch.Tensor:
        return torch.multinomial(self.still_weights, n, replacement=True, generator=self.generator)

    def draw_stills(self, n: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """n augmented stills [n, 3, 1, H, W] in [-1, 1] and their caption indices [n]."""
        index = self._pick(n)
        views = self._grid((TILE, TILE), size, n, (1.1, 1.0), 0.12)
        out = self._sharpen(self._render(self.stills[index], *views, size), n)
        out = self._flip(self._colour(out, n))
        return out[:, :, None], self.still_captions[index]

    def draw_motion(self, n: int, t: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """n clips [n, 3, t, H, W] made from stills: camera moves, a smooth warp, and a second still drifting across."""
        index = self._pick(n)
        layers = [self._moving(index, t, size), self._moving(self._pick(n), t, size)]
        # The object: a soft ellipse whose centre and size move; a third of the clips have none.
        clock = torch.linspace(-1, 1, t, device=self.device)
        ys = torch.linspace(-1, 1, size[0], device=self.device)[:, None]
        xs = torch.linspace(-1, 1, size[1], device=self.device)[None]
        at, speed = self._uniform(-0.7, 0.7, 2, n, 1), self._uniform(-1.0, 1.0, 2, n, 1)
        radius = self._uniform(0.15, 0.7, 2, n, 1, 1, 1)
        cy, cx = (at + speed * clock * (t / 17))[..., None, None]
        distance = ((ys - cy) / radius[0]) ** 2 + ((xs - cx) / radius[1]) ** 2
        has_object = (self._uniform(0, 1, n) < 0.7).view(n, 1, 1, 1)
        mask = (torch.sigmoid((1 - distance) * 12) * has_object)[:, None]
        return self._flip(layers[0] * (1 - mask) + layers[1] * mask), self.still_captions[index]

    def _moving(self, index: torch.Tensor, t: int, size: tuple[int, int]) -> torch.Tensor:
        n = len(index)
        log_scale, angle, centre = self._grid((TILE, TILE), size, n, (1.2, 0.95), 0.1)
        clock = torch.linspace(0, 1, t, device=self.device)[None] * (t / 17)
        pace = self._uniform(0, 1, n, 1) ** 1.5  # most clips are slow, some are fast
        log_scale = log_scale[:, None] + self._uniform(-0.35, 0.35, n, 1) * pace * clock
        angle = angle[:, None] + self._uniform(-0.35, 0.35, n, 1) * pace * clock
        drift = self._uniform(-110, 110, n, 1, 2) * pace[..., None] * clock[..., None]
        centre = centre[:, None] + drift * (1 + self._uniform(-0.5, 0.5, n, 1, 1) * clock[..., None])
        bend = F.interpolate(self._uniform(-0.08, 0.08, n, 2, 4, 4), scale_factor=8, mode="bicubic")
        bend = F.interpolate(bend, (2 * size[0], 2 * size[1]), mode="bilinear").permute(0, 2, 3, 1)[:, None]
        wave = torch.sin(6.3 * (self._uniform(0, 1, n, 1) + self._uniform(0, 1.0, n, 1) * clock))[..., None, None, None]
        pictures = self.stills[index][:, None].expand(-1, t, -1, -1, -1).flatten(0, 1)
        out = self._render(
            pictures,
            log_scale.flatten(),
            angle.flatten(),
            centre.flatten(0, 1),
            size,
            (bend * wave * pace[..., None, None, None]).flatten(0, 1),
        )
        return self._colour(self._sharpen(out, n).unflatten(0, (n, t)).transpose(1, 2), n)

    def draw_clips(self, n: int, t: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """n real clips [n, 3, t, H, W]: a random run, start, frame step 1..5, time direction and view."""
        runs = self.runs[torch.multinomial(self.run_weights, n, replacement=True, generator=self.generator)]
        step = torch.minimum(
            (self._uniform(0, 1, n) ** 1.5 * 5).long() + 1, (runs[:, 1] - 1) // max(1, t - 1)
        ).clamp_min(1)
        start = (self._uniform(0, 1, n) * (runs[:, 1] - (t - 1) * step)).long()
        index = runs[:, :1] + start[:, None] + step[:, None] * torch.arange(t, device=self.device)
        index = torch.where((self._uniform(0, 1, n) < 0.5)[:, None], index.flip(1), index)
        views = self._grid((CLIP_H, CLIP_W), size, n, (1.1, 1.0), 0.04)
        views = [v.repeat_interleave(t, 0) for v in views]
        out = self._sharpen(self._render(self.frames[index.flatten()], *views, size), n)
        out = out.unflatten(0, (n, t)).transpose(1, 2)
        return self._flip(self._colour(out, n)), runs[:, 2]

    def draw_video(self, n: int, t: int, size: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Half real clips, half motion made from stills."""
        real, made = self.draw_clips(n - n // 2, t, size), self.draw_motion(n // 2, t, size)
        return torch.cat([real[0], made[0]]), torch.cat([real[1], made[1]])
