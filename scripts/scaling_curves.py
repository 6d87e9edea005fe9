"""What noise bits are worth: one table, one JSON file and one picture for the fits of a clip."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vov import VovError, cli
from vov.config import option


@dataclass(frozen=True)
class Curves:
    """Which fits, and which schemes on them."""

    fits: str = option("", "comma-separated .vov files of one clip, e.g. a random and an anchored fit (required)")
    frames_dir: str = option("", "the original (required)")
    schemes: str = option("paper:50 paper:100 paper:250 blocks:50:4096 atoms:50:100 atoms:50:250 atoms:50:500 "
                          "atoms:50:1000", "SCHEME:STEPS[:SCALING_BYTES, or BLOCK for blocks][:name=value,…]; "
                          "name: eta, score, shift…")
    explicit: str = option("600,1000,1500,2500,4000", "bytes of files of quantised latents to compare with")
    out: str = option("runs/scaling", "gets curves.json (rows in it are not measured again) and curves.png")
    cache_dir: str = option("../pretrained_models", "where the foundation models are")
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"))


def parse(text: str) -> tuple[dict, str]:
    """(fields of ScalingConfig, label) of one scheme."""
    scheme, steps, *rest = text.split(":")
    values: dict = {"scheme": scheme, "steps": int(steps)}
    for part in rest:
        for item in part.split(","):
            name, _, value = item.partition("=")
            if not value:
                values["block" if scheme == "blocks" else "scaling_bytes"] = int(name)
            else:
                values[name] = value if name in ("score", "candidates", "choice") else (
                    float(value) if name in ("eta", "start_level") else int(value))
    return values, text


def main(settings: Curves) -> None:
    """Measures what is not measured yet, prints and draws all."""
    if not settings.fits or not settings.frames_dir:
        raise VovError("FITS and FRAMES_DIR must be set: .vov files, and the clip they were made from")
    from video.backbone import WanBackbone
    from vov import bitstream, explicit, media, metrics, scaling_search
    from vov.codec import Source, decode_file
    from vov.files import write_json

    folder = Path(settings.out)
    path = folder / "curves.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    seen = {(row["fit"], row["scheme"]) for row in rows}
    fits = [Path(f) for f in settings.fits.split(",")]
    header = bitstream.read(fits[0]).header
    backbone = WanBackbone.load(header.model_id, settings.cache_dir, settings.device, header.dtype, trusted=False)
    clip = media.read_clip(settings.frames_dir, header.num_frames)
    target = media.fit_geometry(clip.frames, header.width, header.height, header.fit)

    def note(fit: str, scheme: str, file: Path, frames, **more) -> None:
        frames = media.fit_geometry(frames, header.width, header.height, header.fit)
        row = {"fit": fit, "scheme": scheme, "bytes": file.stat().st_size, "psnr": metrics.psnr(target, frames),
               "ms_ssim": metrics.ms_ssim(target, frames), **more}
        rows.append(row)
        write_json(path, rows)
        print(f"{fit:<12}{scheme:<44}{row['bytes']:>7,} {row['psnr']:>6.2f} dB {row['ms_ssim']:.4f}", flush=True)

    with tempfile.TemporaryDirectory() as temporary:
        for fit in fits:
            label, stream = fit.parent.name, bitstream.read(fit)
            if (label, "none") not in seen:
                note(label, "none", fit, decode_file(fit, backbone)[0].frames, noise=0)
            for text in settings.schemes.split():
                if (label, text) in seen:
                    continue
                values, name = parse(text)
                config = scaling_search.ScalingConfig(**values)
                scaled, frames = scaling_search.scale(
                    stream, backbone, [Source(clip.frames, clip.fps, stream.items[0].caption)], config)
                file = Path(temporary) / "scaled.vov"
                bitstream.write(file, scaled)
                decoded = decode_file(file, backbone)[0].frames
                restored = media.fit_geometry(decoded, header.width, header.height, header.fit)
                note(label, name, file, decoded, noise=len(scaled.noise),
                     difference=abs(metrics.psnr(target, frames[0]) - metrics.psnr(target, restored)))
        if not any(row["fit"] == "explicit" for row in rows):
            cut = media.Clip(target, clip.fps)
            for file in explicit.encode(cut, backbone, map(int, settings.explicit.split(",")), Path(temporary)):
                note("explicit", file.stem, file, explicit.decode_file(file, backbone).frames)
    draw(rows, folder / "curves.png")


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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    cli.run(Curves, main, "FITS=a/x.vov,b/x.vov FRAMES_DIR=… [VARIABLE=value …] bash scripts/scaling_curves.sh")
