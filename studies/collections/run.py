"""What a collection's θ saves: `python -m studies.collections.run --folder pictures --out rows.jsonl`.

FOLDER has a folder for each kind with `fit` (pictures that θ is fitted to) and `test` (others of the kind). Every test
picture is coded at some budgets of noise with the frozen model and with the collection's θ; the table gives the bytes
that θ saves at equal PSNR, its own bytes shared out over 20, 100 and 1,000 files. Rows are kept: run it again to go on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scripts.results.kept import Rows, key
from vov import bitstream, media, metrics
from vov.commands.options import ImageFit, QwenOptions
from vov.config import cli, number_list, option, override
from vov.decoding import collection
from vov.decoding.decode import decode
from vov.fitting import collection_fit
from vov.media.original import Original
from vov.model.backbone import Backbone
from vov.noise.items import NoiseRun, add_noise, frozen_file
from vov.noise.options import ScalingConfig

FILES = (20, 100, 1000)


@dataclass(frozen=True)
class Compare(QwenOptions):
    """What is compared."""

    model_id: str = override(QwenOptions, "model_id", "nano-image")
    folder: str = option("", "has KIND/fit/*.webp and KIND/test/*.webp (required)")
    out: str = option("runs/collections/rows.jsonl", "gets the rows; files go beside it")
    budgets: str = option("300,800,2000", "bytes of noise of a picture")
    size: int = option(256, "pixels of a side", minimum=16)
    steps: int = option(40, "sampler steps", minimum=2)
    train_steps: int = option(1500, "optimiser steps of a collection's θ", minimum=1)
    theta_length: int = option(8192, "entries of a collection's θ", minimum=1)
    rank: int = option(4, "rank of the update of each adapted matrix", minimum=1)
    batch_size: int = option(16, "pictures that a step sees", minimum=1)
    lr: float = option(0.05, "peak learning rate of θ", minimum=0)
    fit_pictures: int = option(100, "pictures that θ is fitted to", minimum=1)
    pictures: int = option(20, "test pictures of a kind", minimum=1)
    fits: int = option(1, "0: only code; the .vovd files must be there", minimum=0)
    kinds: str = option("", "of FOLDER, with commas between; empty: all")
    part: int = option(0, "which of PARTS this process codes", minimum=0)
    parts: int = option(0, "processes that share out the pictures; 0: only fit and print the table", minimum=0)


def read(folder: Path, count: int = 0) -> list[Original]:
    """The pictures of a folder; its caption.txt says what all show."""
    text = folder.parent / "caption.txt"
    caption = text.read_text().strip() if text.is_file() else ""
    paths = sorted(p for p in folder.iterdir() if p.suffix in (".webp", ".png"))
    return [Original(media.read_image(p)[None], 0.0, caption, p.name) for p in (paths[:count] if count else paths)]


def theta_of(kind: str, settings: Compare, backbone: Backbone) -> Path:
    """The kind's .vovd file, fitted if it is not there."""
    path = Path(settings.out).parent / f"{kind}.vovd"
    if not path.is_file():
        blocks = len(backbone.transformer.get_submodule(backbone.blocks))
        fit = ImageFit(width=settings.size, height=settings.size, theta_length=settings.theta_length,
                       rank=settings.rank, last_k=blocks, lora_preset="qkvo_mlp", lr=settings.lr,
                       train_steps=settings.train_steps, batch_size=settings.batch_size, accum_step=1,
                       init_bits=4.0, preview_every=0)
        shown = [collection_fit.Window(s.fitted(settings.size, settings.size, "crop"), s.caption)
                 for s in read(Path(settings.folder) / kind / "fit", settings.fit_pictures)]
        collection_fit.write(path, collection_fit.fit(backbone, shown, fit, kind, path.with_suffix("")))
    return path


def code(kind: str, settings: Compare, backbone: Backbone, rows: Rows) -> None:
    """Codes this process's test pictures, with and without θ, at every budget."""
    folder = str(Path(settings.out).parent)
    name = collection.remember(str(Path(folder) / f"{kind}.vovd"))
    originals = read(Path(settings.folder) / kind / "test", settings.pictures)
    fit = replace(ImageFit(), width=settings.size, height=settings.size, decode_steps=settings.steps, shift=0.0)
    for original in originals[settings.part::settings.parts]:
        for budget in map(int, number_list("BUDGETS", settings.budgets, positive=True)):
            for shared in (b"", name):
                mark = key(backbone, [original], kind, budget, shared, settings.steps, settings.size)
                if rows.find(mark):
                    continue
                stream = replace(frozen_file(backbone, [original], fit), collection=shared)
                asked = ScalingConfig(scaling_bytes=budget, score="lookahead", steps=settings.steps)
                made, _ = add_noise(stream, backbone, [original], asked, NoiseRun(collections=folder))
                file = f"{kind}-{Path(original.name).stem}-{budget}-{'theta' if shared else 'plain'}.vov"
                bitstream.write(rows.files / file, made)
                (clip,) = decode(rows.files / file, backbone, collections=folder)  # the bytes alone
                shown = original.reference(settings.size, settings.size, "crop")
                rows.add(mark, [{"kind": kind, "name": original.name, "budget": budget, "shared": bool(shared),
                                 "theta": shared.hex(), "file": file,
                                 "bytes": (rows.files / file).stat().st_size,
                                 "psnr": metrics.psnr(shown, clip.frames)}])


def complete(rows: list[dict]) -> list[dict]:
    """The rows of pictures that have one for every budget, with and without θ: a run that was stopped left others."""
    found: dict[str, set] = {}
    for row in rows:
        found.setdefault(row["name"], set()).add((row["budget"], row["shared"]))
    every = set().union(*found.values())
    return [row for row in rows if found[row["name"]] == every]


def saving(rows: list[dict], own: float) -> float:
    """Per cent of bytes that θ changes at equal PSNR, `own` bytes of it in each file; mean over the common PSNRs.

    Curves are of the means over all pictures, log bytes against PSNR, straight between the budgets (BD-rate with
    linear pieces); nan where the curves share no PSNR.
    """
    curves = []
    for shared in (False, True):
        budgets = sorted({row["budget"] for row in rows})
        of = [[row for row in rows if row["shared"] == shared and row["budget"] == budget] for budget in budgets]
        size = [np.mean([row["bytes"] for row in group]) + own * shared for group in of]
        curves.append((np.array([np.mean([row["psnr"] for row in group]) for group in of]), np.log(size)))
    low, high = max(c[0].min() for c in curves), min(c[0].max() for c in curves)
    if low >= high:
        return float("nan")
    grid = np.linspace(low, high, 100)
    plain, theta = (np.interp(grid, np.sort(psnr), logs[np.argsort(psnr)]) for psnr, logs in curves)
    return float(100 * (np.exp(np.mean(theta - plain)) - 1))


def table(kind: str, rows: list[dict], theta: Path) -> str:
    """Means of every budget, then what θ changes with its bytes shared out."""
    name, size = collection.read(theta).name.hex(), theta.stat().st_size
    rows = [row for row in rows if row["kind"] == kind and row["theta"] in ("", name)]
    rows = complete(rows)
    groups = {k: [row for row in rows if (row["budget"], row["shared"]) == k]
              for k in sorted({(row["budget"], row["shared"]) for row in rows})}
    lines = [f"{kind}: θ of {size} bytes"]
    lines += [f"  noise {budget:>5}  {'with θ ' if shared else 'without'}  {len(group)} pictures  "
              f"{np.mean([row['bytes'] for row in group]):8.1f} bytes  {np.mean([r['psnr'] for r in group]):.2f} dB"
              for (budget, shared), group in groups.items()]
    if len({shared for _, shared in groups}) == 2:
        lines += [f"  bytes at equal PSNR, θ shared by {count:>4} files: {saving(rows, size / count):+.1f} %"
                  for count in FILES]
    return "\n".join(lines)


def main(settings: Compare) -> None:
    """Fits, or codes a part, or prints."""
    from vov.model.qwen import QwenBackbone

    folder, out = Path(settings.folder), Path(settings.out)
    kinds = settings.kinds.split(",") if settings.kinds else sorted(p.name for p in folder.iterdir() if p.is_dir())
    backbone = settings.load(QwenBackbone)
    for kind in kinds if settings.fits else ():
        theta_of(kind, settings, backbone)
    rows = Rows(out, out.parent / "files")
    if settings.parts:
        for kind in kinds:
            code(kind, settings, backbone, rows)
        return
    for kind in kinds:
        print(table(kind, [row for shared in (False, True) for row in rows.where("shared", shared)],
                    out.parent / f"{kind}.vovd"))


if __name__ == "__main__":
    cli.run(Compare, main, "FOLDER=pictures [VARIABLE=value …] python -m studies.collections.run")
