"""What noise bits are worth: PSNR and MS-SSIM against bytes for fits of some clips or pictures."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vov import VovError, cli
from vov.config import option

SCHEMES = ("paper:50 paper:100 paper:250 blocks:50:4096 "
           + " ".join(f"atoms:100:{size}:score=lookahead" for size in (250, 500, 1000, 2000)))


@dataclass(frozen=True)
class Curves:
    """Which fits, and which schemes on them."""

    fits: str = option("", "comma-separated .vov files of one tree, named after their originals; the folder that each "
                           "is in says what kind of fit it is, e.g. random/cups.vov,anchored/cups.vov (required)")
    originals: str = option("", "comma-separated: folders of frames, videos or pictures (required)",
                            alias=("FRAMES_DIR",))
    schemes: str = option(SCHEMES, "SCHEME:STEPS[:SCALING_BYTES, or BLOCK for blocks][:name=value,…]; name: any other "
                                   "option of sample.sh; none: the fits alone")
    explicit: str = option("600,1000,1500,2500,4000", "bytes of files of quantised latents to compare with; none: none")
    out: str = option("runs/scaling", "gets curves.jsonl (rows in it are not measured again), curves.png and all files")
    check: bool = option(False, "measure nothing new: decode every file in OUT again, on this device, and compare")
    cache_dir: str = option("../pretrained_models", "where the foundation models are")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))


def parse(text: str) -> dict:
    """The fields of ScalingConfig that a scheme's text names."""
    from vov.scaling_search import ScalingConfig

    kinds = {field.name: type(field.default) for field in dataclasses.fields(ScalingConfig)}
    scheme, steps, *rest = text.split(":")
    values: dict = {"scheme": scheme, "steps": int(steps)}
    for item in ",".join(rest).split(",") if rest else ():
        name, equals, value = item.partition("=")
        if not equals:
            name, value = "block" if scheme == "blocks" else "scaling_bytes", name
        if name not in kinds:
            raise VovError(f"SCHEMES: {text}: {name} is not one of {', '.join(kinds)}")
        values[name] = kinds[name](value)
    return values


def backbone_for(header, settings: Curves):
    """The model that a header names, of its tree."""
    if header.tree == "image":
        from image.backbone import QwenBackbone as Kind
    else:
        from video.backbone import WanBackbone as Kind
    return Kind.load(header.model_id, settings.cache_dir, settings.device, header.dtype, trusted=False)


class Bench:
    """One fit, its original, and how rows are made of them."""

    def __init__(self, fit: Path, settings: Curves, backbone=None):
        from vov import bitstream, codec, media

        self.fit, self.stream = fit, bitstream.read(fit)
        self.header = header = self.stream.header
        self.backbone = backbone or backbone_for(header, settings)
        found = [Path(o) for o in settings.originals.split(",") if Path(o).stem == fit.stem]
        if len(found) != 1 or len(self.stream.items) != 1:
            raise VovError(f"{fit}: needs one original called {fit.stem} in ORIGINALS, and one item in the file")
        clip = (media.Clip(media.read_image(found[0])[None], 0.0) if header.tree == "image"
                else media.read_clip(found[0], header.num_frames))
        self.source = codec.Source(clip.frames, clip.fps, self.stream.items[0].caption)
        self.target = self.source.reference(header.width, header.height, header.fit)

    def quality(self, frames: np.ndarray) -> dict:
        """PSNR and MS-SSIM of decoded frames."""
        from vov import metrics

        return {"psnr": metrics.psnr(self.target, frames), "ms_ssim": metrics.ms_ssim(self.target, frames)}

    def row(self, scheme: str, folder: Path) -> dict:
        """Chooses noise, writes the file, decodes it; `encoder_psnr` is of the frames that the encoder saw."""
        from vov import bitstream, codec, media, scaling_search

        scaled, more = self.stream, {}
        if scheme != "none":
            config = scaling_search.ScalingConfig(**parse(scheme))
            scaled, seen = scaling_search.scale(self.stream, self.backbone, [self.source], config)
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
        from vov import explicit, media

        clip = media.Clip(media.fit_geometry(self.source.frames, self.header.width, self.header.height,
                                             self.header.fit), self.source.fps or 1.0)
        sizes = [int(size) for size in targets.split(",")]
        files = explicit.encode(clip, self.backbone, sizes, folder / self.fit.stem)
        return [{"clip": self.fit.stem, "fit": "explicit", "scheme": str(size), "file": f"{self.fit.stem}/{file.name}",
                 "bytes": file.stat().st_size, "noise": 0,
                 **self.quality(explicit.decode_file(file, self.backbone).frames)}
                for size, file in zip(sorted(sizes), files, strict=True)]


def main(settings: Curves) -> None:
    """Measures what is not measured yet, prints and draws all."""
    folder = Path(settings.out)
    if not settings.fits or not settings.originals:
        raise VovError("FITS and ORIGINALS must be set: .vov files, and the clips or pictures they were made from")
    path = folder / "curves.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    known = {(row["clip"], row["fit"], row["scheme"]) for row in rows}
    bench = None
    for fit in map(Path, settings.fits.split(",")):
        bench = Bench(fit, settings, bench and bench.backbone)
        if settings.check:
            compare(bench, [row for row in rows if (row["clip"], row["fit"]) == (fit.stem, fit.parent.name)], folder)
            continue
        schemes = dict.fromkeys(("none", *settings.schemes.split()))
        todo = [scheme for scheme in schemes if (fit.stem, fit.parent.name, scheme) not in known]
        new = (bench.row(scheme, folder) for scheme in todo)
        for row in new:
            add(row, rows, path)
        if settings.explicit != "none" and not any(r["clip"] == fit.stem and r["fit"] == "explicit" for r in rows):
            for row in bench.explicit(settings.explicit, folder):
                add(row, rows, path)
    if not settings.check:
        averages = mean_rows(rows)
        for row in averages:
            print(f"{row['fit']:<14}{row['scheme']:<50}{row['bytes']:>8,.0f} {row['psnr']:>6.2f} {row['ms_ssim']:.3f} "
                  f"(mean of {row['clips']})")
        draw(averages, folder / "curves.png")


def add(row: dict, rows: list[dict], path: Path) -> None:
    """Keeps and prints one row; processes with different fits may share the file."""
    rows.append(row)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    print(f"{row['clip']:<16}{row['fit']:<12}{row['scheme']:<44}{row['bytes']:>7,} {row['psnr']:>6.2f} dB "
          f"{row['ms_ssim']:.4f}", flush=True)


def compare(bench: Bench, rows: list[dict], folder: Path) -> None:
    """Decodes the files of rows here and now, next to what their rows say."""
    from vov import codec

    for row in rows:
        psnr = bench.quality(codec.decode_file(folder / row["file"], bench.backbone)[0].frames)["psnr"]
        print(f"{row['file']:<70} encoder {row.get('encoder_psnr', row['psnr']):.4f}, row {row['psnr']:.4f}, "
              f"here {psnr:.4f} dB, difference {psnr - row['psnr']:+.4f}", flush=True)


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


if __name__ == "__main__":
    cli.run(Curves, main, "FITS=a/x.vov,b/x.vov ORIGINALS=x.mp4 [VARIABLE=value …] bash scripts/scaling_curves.sh")
