"""Measures one reproduction against its original while both stream by: every metric, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vov import VovError, media, metrics
from vov.evaluation import catalogue, fvd, tools, warping
from vov.evaluation.perceptual import Dists, Lpips, Unavailable, file_digest, find_weights

VIDEO_HEIGHT = 360  # of the report's videos, at most
VIDEO_FRAMES = 150
FLOW_CACHE = 300  # optical flows kept of one original, 0.5 MB each


@dataclass
class Measured:
    """What one pass over a pair found.

    Attributes:
        values: {metric: mean over the clip}.
        per_frame: {metric: list of float, one per measured frame}.
        unavailable: {metric: why}, for the metrics that are not in `values`.
        features: {"original" | "decoded" | "original_full" | "decoded_full": I3D features [n, 400]}.
        stills: {frame index: (original, decoded)} at full size, for the report.
        video: (original, decoded) uint8 [T, h, w, 3], small, for the report.
    """

    values: dict[str, float] = field(default_factory=dict)
    per_frame: dict[str, list[float]] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    features: dict[str, np.ndarray] = field(default_factory=dict)
    stills: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    video: tuple[np.ndarray, np.ndarray] | None = None
    frames: int = 0
    size: tuple[int, int] = (0, 0)


class Suite:
    """The metrics that can be computed here, loaded once; those that cannot, with the reason.

    Args:
        device: where the networks run.
        weights_dir: METRIC_WEIGHTS_DIR.
        step: metrics of single pictures (SSIM, LPIPS, … SSIMULACRA2) look at every `step`-th frame, the others at all.
        skipped: {metric: why it is not wanted}, see `catalogue.left_out`.
        display: of ColorVideoVDP.
    """

    def __init__(self, device: torch.device | str = "cpu", weights_dir: str = "", step: int = 1,
                 skipped: Mapping[str, str] | None = None, display: str = "standard_4k"):
        self.device, self.step, self.unavailable = torch.device(device), step, dict(skipped or {})
        self.pictures: dict[tuple[str, ...], Callable[[Tensor, Tensor], Tensor | tuple[Tensor, ...]]] = {}
        self.clips: list[tools.ColorVideoVdp | tools.FfmpegMetrics] = []
        self.warping = "warp" not in self.unavailable
        ssim = tuple(name for name in ("ssim", "ms_ssim") if name not in self.unavailable)
        if ssim:
            self.pictures[ssim] = {2: metrics.both_ssim_tensors, 1: getattr(metrics, f"{ssim[0]}_tensors")}[len(ssim)]
        for name, make in (("lpips_vgg", lambda: Lpips("vgg", weights_dir)),
                           ("lpips_alex", lambda: Lpips("alex", weights_dir)),
                           ("dists", lambda: Dists(weights_dir)),
                           ("stlpips_vgg", lambda: tools.StLpips("vgg")),
                           ("stlpips_alex", lambda: tools.StLpips("alex"))):
            if network := self._try((name,), make):
                self.pictures[name,] = network.to(self.device)
        if computed := self._try(("ssimulacra2",), tools.Ssimulacra2):
            self.pictures["ssimulacra2",] = computed
        by_ffmpeg = [name for name in ("vmaf", "xpsnr") if name not in self.unavailable]
        for names, found in ((("jod",), lambda: tools.ColorVideoVdp(display, self.device)),
                             (by_ffmpeg, lambda: tools.FfmpegMetrics(by_ffmpeg))):
            if computed := self._try(names, found):
                self.clips.append(computed)
        self.detector = self._try(catalogue.FVD, lambda: fvd.Detector(weights_dir, self.device))
        self.weights = self._weights(weights_dir)
        self.versions = sorted({tools.version(name) for name in self.names()} - {""})
        self.flows: tuple[tuple | None, list[Tensor]] = (None, [])
        self._originals: dict[tuple[str, int], tuple[np.ndarray, np.ndarray]] = {}

    def names(self) -> list[str]:
        """The metrics that are loaded, those that `vov.metrics` always has left out."""
        return [name for names in (*self.pictures, *(clip.names for clip in self.clips)) for name in names]

    def conditions(self) -> str:
        """The viewing conditions of ColorVideoVDP, "" when it is not computed."""
        return next((clip.conditions for clip in self.clips if isinstance(clip, tools.ColorVideoVdp)), "")

    def _try(self, names: Sequence[str], make: Callable[[], Any]) -> Any:
        """What `make` makes unless none of `names` is wanted; None, with the reason noted, when it is Unavailable."""
        wanted = [name for name in names if name not in self.unavailable]
        if not wanted:
            return None
        try:
            return make()
        except Unavailable as error:
            self.unavailable |= dict.fromkeys(wanted, str(error))
            return None

    def _weights(self, folder: str) -> dict[str, str]:
        """{name: SHA-256} of the files of weights in use, for the record."""
        digests = {name: file_digest(find_weights(name, folder)) for name, used in (
            ("vgg16", "lpips_vgg"), ("alexnet", "lpips_alex"), ("dists", "dists")) if (used,) in self.pictures}
        if self.detector:
            digests["i3d"] = file_digest(self.detector.path)
        return {name: digest[:16] for name, digest in digests.items()}

    def measure(self, original: Iterable[np.ndarray], decoded: Iterable[np.ndarray], count: int,
                stills: Iterable[int] = (), video: bool = False) -> Measured:
        """Compares the first `count` frames.

        Args:
            original, decoded: anything that yields uint8 [H, W, 3] frames; only a batch is in memory. Metrics of
                whole clips (ColorVideoVDP, VMAF, XPSNR) go through both once more.
            stills: frames to keep at full size for the report.
            video: keep a small copy of both clips for the report.
        Raises:
            VovError: frames of unequal sizes, or one of the two ends early.
        """
        state = _Pass(self, original, count, set(stills), video)
        rest = zip(_exactly(original, count, "the original"), _exactly(decoded, count, "the reproduction"), strict=True)
        first = next(rest)
        length = metrics.batch_length(*first[0].shape[:2])
        pairs = _chain_first(first, rest)
        with torch.inference_mode():
            while batch := list(islice(pairs, length)):
                state.add(np.stack([a for a, _ in batch]), _same_size(batch))
        result = state.finish()
        for clip in self.clips:
            self._measure_clip(clip, original, decoded, result)
        return result

    def _measure_clip(self, clip: tools.ColorVideoVdp | tools.FfmpegMetrics, original: Iterable[np.ndarray],
                      decoded: Iterable[np.ndarray], result: Measured) -> None:
        """Adds what a metric of whole clips finds to `result`."""
        try:
            if iter(original) is original or iter(decoded) is decoded:
                raise Unavailable("the frames can be read only once; give a file or a folder")
            values, frames = clip(original, decoded, result.size, result.frames,
                                  getattr(original, "fps", 0) or media.DEFAULT_FPS)
        except Unavailable as error:
            values, frames = {}, {}
            result.unavailable |= dict.fromkeys(clip.names, str(error))
        result.values |= values
        result.per_frame |= frames
        for name in clip.names:
            if name not in values:
                result.unavailable.setdefault(name, "needs at least 2 frames")


class _Pass:
    """The state of one pass: sums, the previous frame, the FVD crops that are still open."""

    def __init__(self, suite: Suite, original: Iterable[np.ndarray], count: int, stills: set[int], video: bool):
        self.suite, self.count, self.wanted, self.keep_video = suite, count, stills, video
        self.result = Measured(frames=count, unavailable={
            name: reason for name, reason in suite.unavailable.items() if reason != catalogue.NOT_ASKED})
        self.per_frame: dict[str, list[float]] = {"mse": []}
        self.index = 0
        self.last: tuple[np.ndarray, np.ndarray] | None = None
        self.small: tuple[list, list] = ([], [])
        self.samplers: dict[str, fvd.Sampler] = {}
        self.features: dict[str, list[np.ndarray]] = {"original": [], "decoded": []}
        self.key = (str(getattr(original, "path", id(original))), count)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """The next frames, uint8 [n, H, W, 3] each."""
        if self.index == 0:
            self._start(a)
        self.per_frame["mse"].extend(metrics.mse_frames(a, b))
        joined = (a, b) if self.last is None else tuple(
            np.concatenate((before, now)) for before, now in zip(self.last, (a, b), strict=True))
        self.per_frame.setdefault("flicker", []).extend(metrics.flicker_sums(*joined))
        chosen = [i for i in range(len(a)) if (self.index + i) % self.suite.step == 0]
        if chosen and self.suite.pictures:
            self._pictures(a[chosen], b[chosen])
        if self.suite.warping:
            self._warp(*joined)
        for name, frames in (("original", a), ("decoded", b)):
            self._sample(name, frames)
        self._keep(a, b)
        self.last = (a[-1:].copy(), b[-1:].copy())
        self.index += len(a)

    def _sample(self, name: str, frames: np.ndarray) -> None:
        """I3D features of the windows that these frames complete."""
        if name in self.samplers:
            for frame in frames:
                self.features[name].extend(self.suite.detector(crops) for crops in self.samplers[name].add(frame))

    def _keep(self, a: np.ndarray, b: np.ndarray) -> None:
        """Stills and small frames for the report."""
        for i in range(len(a)):
            if self.index + i in self.wanted:
                self.result.stills[self.index + i] = (a[i].copy(), b[i].copy())
        if self.keep_video and self.index < VIDEO_FRAMES:
            height, width = a.shape[1:3]
            scale = min(1.0, VIDEO_HEIGHT / height)
            for kept, frames in zip(self.small, (a, b), strict=True):
                kept.extend(media.resize(frames, max(1, round(width * scale)), max(1, round(height * scale))))

    def _start(self, a: np.ndarray) -> None:
        height, width = a.shape[1:3]
        self.result.size = (width, height)
        if self.suite.detector is None:
            return
        try:
            self.samplers["decoded"] = fvd.Sampler(self.count, height, width)
            if self.key not in self.suite._originals:
                self.samplers["original"] = fvd.Sampler(self.count, height, width)
        except Unavailable as error:
            self.result.unavailable |= dict.fromkeys(("fvd", "fvd_full"), str(error))

    def _pictures(self, a: np.ndarray, b: np.ndarray) -> None:
        x, y = (metrics.to_tensor(frames, self.suite.device) for frames in (a, b))
        for names, metric in self.suite.pictures.items():
            if names[0] in self.result.unavailable:  # in the batch before
                continue
            try:
                values = metric(x, y)
            except VovError as error:  # too small for this metric; the clip's other values stand
                self.result.unavailable |= dict.fromkeys(names, str(error))
                continue
            for name, value in zip(names, values if isinstance(values, tuple) else (values,), strict=True):
                self.per_frame.setdefault(name, []).extend(value.double().cpu().tolist())

    def _warp(self, a: np.ndarray, b: np.ndarray) -> None:
        for i in range(1, len(a)):
            x, y = (metrics.to_tensor(frames[i - 1:i + 1], self.suite.device) for frames in (a, b))
            own, decoded = warping.warping_errors(self._flow(x[1:], x[:1]), x[1:], x[:1], (y[1:], y[:1]))
            self.per_frame.setdefault("warp_original", []).append(own)
            self.per_frame.setdefault("warp", []).append(decoded)

    def _flow(self, frame: Tensor, previous: Tensor) -> Tensor:
        """Flow of the original, from the cache when the clip before had the same original."""
        key, flows = self.suite.flows
        if key != self.key:
            self.suite.flows = key, flows = self.key, []
        place = len(self.per_frame.get("warp", ()))
        if place < len(flows):
            return flows[place].to(frame)
        flow = warping.optical_flow(frame, previous)
        if place == len(flows) and place < FLOW_CACHE:
            flows.append(flow.half().cpu())
            flow = flows[-1].to(frame)  # the rounding of the cache, so that the order of clips does not matter
        return flow

    def finish(self) -> Measured:
        """Averages, and the Fréchet distances."""
        result = self.result
        mse = self.per_frame.pop("mse")
        self.per_frame["psnr"] = [metrics.psnr_of_mse(value) for value in mse]
        result.values["psnr"] = metrics.psnr_of_mse(float(np.mean(mse)))
        result.values["psnr_frames"] = float(np.mean(self.per_frame["psnr"]))
        for name, values in self.per_frame.items():
            if values and name != "psnr":
                result.values[name] = float(np.mean(values))
        for name in ("flicker", "warp", "warp_original"):
            if name not in {**result.values, **self.suite.unavailable}:
                result.unavailable[name] = "needs at least 2 frames"
        result.per_frame = self.per_frame
        if "decoded" in self.samplers:
            self._fvd()
        if self.small[0]:
            result.video = (np.stack(self.small[0][:VIDEO_FRAMES]), np.stack(self.small[1][:VIDEO_FRAMES]))
        return result

    def _fvd(self) -> None:
        detector, cache, result = self.suite.detector, self.suite._originals, self.result
        if self.key not in cache:
            cache[self.key] = (np.concatenate(self.features["original"]),
                               detector(self.samplers["original"].full()))
        original, original_full = cache[self.key]
        decoded = np.concatenate(self.features["decoded"])
        result.features = {"original": original, "decoded": decoded, "original_full": original_full,
                           "decoded_full": detector(self.samplers["decoded"].full())}
        result.values["fvd"] = fvd.frechet_distance(original, decoded)
        result.unavailable["fvd_full"] = "needs at least 2 clips; see the summary of a codec"


def _exactly(frames: Iterable[np.ndarray], count: int, what: str) -> Iterator[np.ndarray]:
    """The first `count` frames; raises VovError when there are fewer."""
    given = 0
    for frame in islice(iter(frames), count):
        yield frame
        given += 1
    if given < count:
        raise VovError(f"{what} ({getattr(frames, 'path', 'frames')}) ends after {given} of {count} frames; "
                       f"set `frames`={given} or give the whole clip")


def _chain_first(first: tuple, rest: Iterator[tuple]) -> Iterator[tuple]:
    yield first
    yield from rest


def _same_size(batch: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    for a, b in batch:
        if a.shape != b.shape:
            raise VovError(f"the original is {a.shape[1]}×{a.shape[0]}, the reproduction {b.shape[1]}×{b.shape[0]}; "
                           "metrics compare at the original's size: decode to it")
    return np.stack([b for _, b in batch])
