"""Points of the curves that `scripts/scaling_curves.sh` draws: a fit, a scheme, the file, its decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vov import VovError, bitstream, codec, media, metrics
from vov.bitstream.header import Header
from vov.config import load
from vov.evaluation import explicit
from vov.evaluation.pairs import numbers
from vov.model.backbone import Backbone
from vov.scaling import search
from vov.scaling.settings import ScalingConfig


def parse(text: str) -> ScalingConfig:
    """What a scheme's text says, checked as sample.sh checks its variables."""
    scheme, _, rest = text.partition(":")
    steps, _, rest = rest.partition(":")
    given = {"scheme": scheme, "steps": steps}
    for item in rest.replace(":", ",").split(",") if rest else ():
        name, equals, value = item.partition("=")
        given |= {name: value} if equals else {"block" if scheme == "blocks" else "scaling_bytes": name}
    if unknown := set(given) - {field.name for field in dataclasses.fields(ScalingConfig)}:
        raise VovError(f"{text}: no option called {', '.join(sorted(unknown))}; see sample.sh --help")
    try:
        return load(ScalingConfig, given, {})
    except VovError as error:
        raise VovError(f"{text}: {error}") from error


def backbone_for(header: Header, cache_dir: str, device: str) -> Backbone:
    """The model that a header names, of its tree."""
    if header.tree == "image":
        from image.backbone import QwenBackbone as Kind
    else:
        from video.backbone import WanBackbone as Kind
    return Kind.load(header.model_id, cache_dir, device, header.dtype, trusted=False)


class Bench:
    """One fit, its original, and how rows are made of them.

    Args:
        fit: a .vov file of one item; the folder that it is in says what kind of fit it is.
        originals: folders of frames, videos or pictures; one is called as the fit is.
        backbone: the fit's model.
    """

    def __init__(self, fit: Path, originals: Sequence[Path], backbone: Backbone):
        self.fit, self.stream, self.backbone = fit, bitstream.read(fit), backbone
        self.header = header = self.stream.header
        found = [path for path in originals if path.stem == fit.stem]
        if len(found) != 1 or len(self.stream.items) != 1:
            raise VovError(f"{fit}: needs one original called {fit.stem} in ORIGINALS, and one item in the file")
        clip = (media.Clip(media.read_image(found[0])[None], 0.0) if header.tree == "image"
                else media.read_clip(found[0], header.num_frames))
        self.source = codec.Source(clip.frames, clip.fps, self.stream.items[0].caption)
        self.target = self.source.reference(header.width, header.height, header.fit)

    def quality(self, frames: np.ndarray) -> dict:
        """PSNR and MS-SSIM of decoded frames."""
        return {"psnr": metrics.psnr(self.target, frames), "ms_ssim": metrics.ms_ssim(self.target, frames)}

    def row(self, scheme: str, folder: Path) -> dict:
        """Chooses noise, writes the file, decodes it; `encoder_psnr` is of the frames that the encoder saw."""
        scaled, more = self.stream, {}
        if scheme != "none":
            scaled, seen = search.scale(self.stream, self.backbone, [self.source], parse(scheme))
            item = self.stream.items[0]
            seen = media.restore_geometry(seen[0], item.original_width, item.original_height, self.header.fit)
            more = {"encoder_psnr": self.quality(seen)["psnr"]}
        file = folder / f"{self.fit.stem}_{self.fit.parent.name}_{scheme.replace(':', '_')}.vov"
        bitstream.write(file, scaled)
        return {"clip": self.fit.stem, "fit": self.fit.parent.name, "scheme": scheme, "file": file.name,
                "bytes": file.stat().st_size, "noise": len(scaled.noise or b""),
                **self.quality(codec.decode_file(file, self.backbone)[0].frames), **more}

    def explicit(self, targets: str, folder: Path) -> list[dict]:
        """Rows of the explicit code of the same model's latents."""
        clip = media.Clip(media.fit_geometry(self.source.frames, self.header.width, self.header.height,
                                             self.header.fit), self.source.fps or 1.0)
        files = explicit.encode(clip, self.backbone, map(int, numbers("EXPLICIT", targets)), folder / self.fit.stem)
        return [{"clip": self.fit.stem, "fit": "explicit", "scheme": f"point {number}",
                 "file": f"{self.fit.stem}/{file.name}",
                 "bytes": file.stat().st_size, "noise": 0,
                 **self.quality(explicit.decode_file(file, self.backbone).frames)}
                for number, file in enumerate(files)]


def mean_rows(rows: list[dict]) -> list[dict]:
    """The mean over clips of every (fit, scheme) that all clips have."""
    clips = {row["clip"] for row in rows}
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["fit"], row["scheme"]), []).append(row)
    return [{"fit": fit, "scheme": scheme, "clips": len(group),
             **{k: float(np.mean([row[k] for row in group])) for k in ("bytes", "psnr", "ms_ssim")}}
            for (fit, scheme), group in sorted(groups.items()) if len(group) == len(clips)]


def draw(rows: list[dict], path: Path) -> None:
    """PSNR and MS-SSIM against bytes; a line for each fit and kind of scheme."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.8))
    groups: dict[str, list[dict]] = {}
    for row in rows:
        kind = "latents" if row["fit"] == "explicit" else row["scheme"].split(":")[0].replace("none", "θ alone")
        groups.setdefault(f"{row['fit']}: {kind}", []).append(row)
    for axis, name, unit in zip(axes, ("psnr", "ms_ssim"), ("PSNR, dB", "MS-SSIM"), strict=True):
        if len(groups) > 10:  # the default cycle has ten colours
            axis.set_prop_cycle(color=pyplot.colormaps["tab20"].colors)
        for label, group in groups.items():
            group = sorted(group, key=lambda row: row["bytes"])
            axis.plot([r["bytes"] for r in group], [r[name] for r in group], "o-", ms=4, lw=1, label=label)
        axis.set(xlabel="bytes of the whole file", ylabel=unit)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="lower center", ncol=4)
    figure.tight_layout(rect=(0, 0.12, 1, 1))  # the legend must not hide a point
    figure.savefig(path, dpi=90)
