"""Points of the curves that `scripts/scaling_curves.sh` draws: a fit, a scheme, the file, its decode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from scripts.experiments.rows import Rows, four_digits, key, mean, quality
from vov import VovError, bitstream, codec, media
from vov.bitstream.header import Header
from vov.config import load, number_list
from vov.evaluation import explicit
from vov.model.backbone import Backbone
from vov.model.options import ModelOptions
from vov.noise import search
from vov.noise.options import ScalingConfig
from vov.runtime.files import content_hash


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


def backbone_for(settings: ModelOptions, header: Header, source: str) -> Backbone:
    """The model that the header of `source` names, of its tree."""
    if header.tree == "image":
        from vov.model.qwen import QwenBackbone as Kind
    else:
        from vov.model.wan import WanBackbone as Kind
    return settings.load(Kind, header, source)


def explicit_sizes(text: str) -> list[int]:
    """EXPLICIT as bytes, fewest first and each once; none for "none"."""
    if text == "none":
        return []
    return sorted({round(size) for size in number_list("EXPLICIT", text, positive=True)})


class Bench:
    """One fit, its original, and how rows are made of them.

    Args:
        fit: a .vov file of one item; the folder that it is in says what kind of fit it is.
        originals: folders of frames, videos or pictures; one is called as the fit is.
        backbone: the fit's model.
        folder: gets the files.
    """

    def __init__(self, fit: Path, originals: Sequence[Path], backbone: Backbone, folder: Path):
        self.fit, self.stream, self.backbone, self.folder = fit, bitstream.read(fit), backbone, folder
        self.header = header = self.stream.header
        found = [path for path in originals if path.stem == fit.stem]
        if len(found) != 1 or len(self.stream.items) != 1:
            raise VovError(f"{fit}: needs one original called {fit.stem} in ORIGINALS, and one item in the file")
        clip = (media.Clip(media.read_image(found[0])[None], 0.0) if header.tree == "image"
                else media.read_clip(found[0], header.num_frames))
        self.source = codec.Source(clip.frames, clip.fps, self.stream.items[0].caption)
        self.target = self.source.reference(header.width, header.height, header.resize)
        # whatever device made the rows: another one may check them
        self.made_from = content_hash(fit.stem, fit.parent.name, fit.read_bytes(), self.source.frames.tobytes())

    def measure(self, schemes: Mapping[str, ScalingConfig], sizes: Sequence[int], kept: Rows) -> Iterator[dict]:
        """The rows of the fit alone, of every scheme on it, and of explicit files of these sizes, kept or new."""
        for text, settings in {"none": None, **schemes}.items():
            found = key(self.backbone, [self.source], self.made_from, text, settings)
            yield from kept.find(found) or kept.add(found, [self.row(text, settings)])
        if sizes:
            found = key(self.backbone, [self.source], "explicit", self.header.width, self.header.height,
                        self.header.resize, sizes)
            yield from kept.find(found) or kept.add(found, self.explicit(sizes))

    def row(self, text: str, settings: ScalingConfig | None) -> dict:
        """Chooses noise, writes the file, decodes it; `encoder_psnr` is of the frames that the encoder saw."""
        scaled, more = self.stream, {}
        if settings:
            scaled, seen = search.scale(self.stream, self.backbone, [self.source], settings)
            item = self.stream.items[0]
            seen = media.restore_geometry(seen[0], item.original_width, item.original_height, self.header.resize)
            more = {"encoder_psnr": quality(self.target, seen)["psnr"]}
        file = self.folder / f"{self.fit.stem}_{self.fit.parent.name}_{text.replace(':', '_')}.vov"
        bitstream.write(file, scaled)
        return {"clip": self.fit.stem, "fit": self.fit.parent.name, "scheme": text, "made_from": self.made_from,
                "file": file.name, "bytes": file.stat().st_size, "noise": len(scaled.noise or b""),
                **quality(self.target, codec.decode_file(file, self.backbone)[0].frames), **more}

    def explicit(self, sizes: Sequence[int]) -> list[dict]:
        """Rows of the explicit code of the same model's latents."""
        clip = media.Clip(media.fit_geometry(self.source.frames, self.header.width, self.header.height,
                                             self.header.resize), self.source.fps or 1.0)
        files = explicit.encode(clip, self.backbone, sizes, self.folder / self.fit.stem)
        return [{"clip": self.fit.stem, "fit": "explicit", "scheme": f"point {number}",
                 "file": f"{self.fit.stem}/{file.name}", "bytes": file.stat().st_size, "noise": 0,
                 **quality(self.target, explicit.decode_file(file, self.backbone).frames)}
                for number, file in enumerate(files)]

    def compare(self, row: dict) -> str:
        """Decodes the file of a row here and now, next to what the row says."""
        psnr = quality(self.target, codec.decode_file(self.folder / row["file"], self.backbone)[0].frames)["psnr"]
        return (f"{row['file']:<70} encoder {row.get('encoder_psnr', row['psnr']):.4f}, row {row['psnr']:.4f}, "
                f"here {psnr:.4f} dB, difference {psnr - row['psnr']:+.4f}")


def line(row: dict) -> str:
    """One row as text."""
    return (f"{row['clip']:<16}{row['fit']:<12}{row['scheme']:<44}{row['bytes']:>7,} {row['psnr']:>6.2f} dB "
            f"{four_digits(row['ms_ssim'])}")


def mean_rows(rows: list[dict]) -> list[dict]:
    """The mean over clips of every (fit, scheme) that all clips have."""
    clips = {row["clip"] for row in rows}
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault((row["fit"], row["scheme"]), []).append(row)
    return [{"fit": fit, "scheme": scheme, "clips": len(group),
             **{k: mean([row[k] for row in group]) for k in ("bytes", "psnr", "ms_ssim")}}
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
            values = [np.nan if r[name] is None else r[name] for r in group]
            axis.plot([r["bytes"] for r in group], values, "o-", ms=4, lw=1, label=label)
        axis.set(xlabel="bytes of the whole file", ylabel=unit)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, loc="lower center", ncol=4)
    figure.tight_layout(rect=(0, 0.12, 1, 1))  # the legend must not hide a point
    figure.savefig(path, dpi=90)
