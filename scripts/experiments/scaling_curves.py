"""What noise bits are worth: PSNR and MS-SSIM against bytes for fits of some clips or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vov import VovError
from vov.config import cli, option
from vov.model.options import ModelOptions

if TYPE_CHECKING:
    from scripts.experiments.curves import Bench
    from scripts.experiments.rows import Rows

SCHEMES = ("paper:50 paper:100 paper:250 blocks:50:4096 "
           + " ".join(f"atoms:100:{size}:score=lookahead" for size in (250, 500, 1000, 2000)))


@dataclass(frozen=True)
class Curves(ModelOptions):
    """Which fits, and which schemes on them."""

    fits: str = option("", "comma-separated .vov files of one tree, named after their originals; the folder that each "
                           "is in says what kind of fit it is, e.g. random/cups.vov,anchored/cups.vov (required)")
    originals: str = option("", "comma-separated: folders of frames, videos or pictures (required)",
                            alias=("FRAMES_DIR",))
    schemes: str = option(SCHEMES, "SCHEME:STEPS[:SCALING_BYTES, or BLOCK for blocks][:name=value,…]; name: any other "
                                   "option of sample.sh; none: the fits alone")
    explicit: str = option("600,1000,1500,2500,4000", "bytes of files of quantised latents to compare with; none: none")
    out: str = option("runs/scaling", "gets curves.jsonl (equal settings are measured once), curves.png and all files")
    check: bool = option(False, "measure nothing new: decode every file in OUT again, on this device, and compare")


def main(settings: Curves) -> list[dict]:
    """Measures what is not measured yet, prints and draws all; returns the rows."""
    from scripts.experiments import curves
    from scripts.experiments.rows import Rows, four_digits
    from vov import bitstream

    if not settings.fits or not settings.originals:
        raise VovError("FITS and ORIGINALS must be set: .vov files, and the clips or pictures they were made from")
    schemes = {text: curves.parse(text) for text in settings.schemes.split() if text != "none"}
    sizes = curves.explicit_sizes(settings.explicit)
    fits, originals = ([Path(p) for p in text.split(",")] for text in (settings.fits, settings.originals))
    backbone = curves.backbone_for(settings, bitstream.read(fits[0]).header, str(fits[0]))
    benches = [curves.Bench(fit, originals, backbone, Path(settings.out)) for fit in fits]
    kept, rows = Rows(Path(settings.out) / "curves.jsonl", Path(settings.out)), []
    if settings.check:
        check(benches, kept)
        return []
    for bench in benches:
        for row in bench.measure(schemes, sizes, kept):
            print(curves.line(row), flush=True)
            rows += [] if row in rows else [row]  # fits of one clip share its explicit points
    averages = curves.mean_rows(rows)
    for row in averages:
        print(f"{row['fit']:<14}{row['scheme']:<50}{row['bytes']:>8,.0f} {row['psnr']:>6.2f} "
              f"{four_digits(row['ms_ssim'])} "
              f"(mean of {row['clips']})")
    curves.draw(averages, Path(settings.out) / "curves.png")
    return rows


def check(benches: Sequence[Bench], kept: Rows) -> None:
    """Decodes the files of the rows that were made from these fits, here and now."""
    found = [(bench, row) for bench in benches for row in kept.where("made_from", bench.made_from)]
    if not found:
        raise VovError(f"{kept.path}: has no rows made from these FITS and ORIGINALS; run without CHECK first")
    for bench, row in found:
        print(bench.compare(row), flush=True)


if __name__ == "__main__":
    cli.run(Curves, main, "FITS=a/x.vov,b/x.vov ORIGINALS=x.mp4 [VARIABLE=value …] bash scripts/scaling_curves.sh")
