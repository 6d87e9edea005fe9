"""What noise bits are worth: PSNR and MS-SSIM against bytes for fits of some clips or pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vov import VovError, cli
from vov.config import option

if TYPE_CHECKING:
    from scripts.experiments.curves import Bench

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


def main(settings: Curves) -> None:
    """Measures what is not measured yet, prints and draws all."""
    from scripts.experiments import curves
    from vov import bitstream

    folder = Path(settings.out)
    if not settings.fits or not settings.originals:
        raise VovError("FITS and ORIGINALS must be set: .vov files, and the clips or pictures they were made from")
    path = folder / "curves.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    known = {(row["clip"], row["fit"], row["scheme"]) for row in rows}
    schemes = dict.fromkeys(("none", *settings.schemes.split()))
    for scheme in [*schemes][1:]:
        curves.parse(scheme)  # all mistakes before any work
    fits, originals = ([Path(p) for p in text.split(",")] for text in (settings.fits, settings.originals))
    backbone = curves.backbone_for(bitstream.read(fits[0]).header, settings.cache_dir, settings.device)
    for fit in fits:
        bench = curves.Bench(fit, originals, backbone)
        if settings.check:
            compare(bench, [row for row in rows if (row["clip"], row["fit"]) == (fit.stem, fit.parent.name)], folder)
            continue
        todo = [scheme for scheme in schemes if (fit.stem, fit.parent.name, scheme) not in known]
        new = (bench.row(scheme, folder) for scheme in todo)
        for row in new:
            add(row, rows, path)
        if settings.explicit != "none" and not any(r["clip"] == fit.stem and r["fit"] == "explicit" for r in rows):
            for row in bench.explicit(settings.explicit, folder):
                add(row, rows, path)
    if not settings.check:
        averages = curves.mean_rows(rows)
        for row in averages:
            print(f"{row['fit']:<14}{row['scheme']:<50}{row['bytes']:>8,.0f} {row['psnr']:>6.2f} {row['ms_ssim']:.3f} "
                  f"(mean of {row['clips']})")
        curves.draw(averages, folder / "curves.png")


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


if __name__ == "__main__":
    cli.run(Curves, main, "FITS=a/x.vov,b/x.vov ORIGINALS=x.mp4 [VARIABLE=value …] bash scripts/scaling_curves.sh")
