"""Sizes and qualities asked of θ and of noise, and what the files have: a table, one JSON line a file."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vov import VovError, config
from vov.config import cli, number_list, option


@dataclass(frozen=True)
class Targets:
    """Which originals; the fit's settings come from CONFIG and the environment, as for the training commands."""

    sources: str = option("", "pictures, or videos and folders of frames, with commas between (required)")
    tree: str = option("image", "image or video", choices=("image", "video"))
    sizes: str = option("500,700,900", "TARGET_BYTES; the same sizes are asked for as TARGET_BPP and TARGET_KBPS")
    qualities: str = option("-0.5,0,0.3", "TARGET_PSNR, counted in dB from that of the middle size")
    noise_steps: int = option(8, "sampler steps of noise", minimum=3)
    out_dir: str = option("runs/targets", "gets results.jsonl and the files; what it holds of equal settings is kept")


def main(settings: Targets) -> None:
    """Makes the files that results.jsonl does not have yet, prints asked and got."""
    from scripts.results.kept import Rows, key

    if not settings.sources:
        raise VovError("SOURCES is not set; give pictures or clips with commas between")
    folder, rows = Path(settings.out_dir), []
    kept = Rows(folder / "results.jsonl", folder)
    for path in settings.sources.split(","):
        stages, source, backbone = read(settings.tree, path)
        found = key(backbone, [source], *(stage.identity() for stage in stages), settings.sizes, settings.qualities,
                    settings.noise_steps)
        rows += kept.find(found) or kept.add(found, measure(settings, stages, source, backbone, folder))
        for row in rows[-1:]:
            print(f"{row['source']} is done", flush=True)
    print(table(rows))


def read(tree: str, path: str):
    """(both stages, the original, the model) of one path; the original is cut to the fit's geometry."""
    from vov.model.registry import backbone_class

    if tree == "image":
        from vov.commands.options import ImageFit as Fit
        given = {"image": path, "caption": "a picture"}
    else:
        from vov.commands.options import VideoFit as Fit
        given = {"frames_dir": path, "caption": "a clip", "name": Path(path).stem}
    environ = {"CONFIG": f"nano-{tree}"} | {k: v for k, v in os.environ.items() if v}
    stages = [config.load(Fit, given | {"preview_every": "0"}, environ, stage) for stage in config.STAGES]
    stages[0] = dataclasses.replace(stages[0], lambda_rate=0.0)
    (original,) = stages[0].originals()
    frames = original.fitted(stages[0].width, stages[0].height, "crop")
    original = dataclasses.replace(original, frames=frames, name=Path(path).stem)
    return stages, original, stages[0].load(backbone_class(tree))


def measure(settings: Targets, stages: list, source, backbone, folder: Path) -> list[dict]:
    """The rows of one original: for θ, then for noise, all sizes first, then qualities around the middle one."""
    from vov.fitting.encoder import Encoder

    made = []
    with tempfile.TemporaryDirectory() as place, Encoder(backbone, [source], stages[0]) as encoder:
        theta = encoder.fit(stages[0], Path(place) / "stage1", preview=False).theta
        made += files(settings, source, "theta", lambda name, value: of_theta(
            encoder, stages[1], theta, name, value, Path(place)))
    made += files(settings, source, "noise", lambda name, value: of_noise(
        settings, stages[1], source, backbone, name, value))
    return [row if "said" in row else {**row, **got(
        stream, source, backbone, folder / f"{source.name}-{row['what']}-{row['kind']}-{row['asked']:g}.vov")}
        for row, stream in made]


def files(settings: Targets, source, what: str, make: Callable) -> list[tuple[dict, Any]]:
    """(row, file or None) of everything that is asked for. make: (variable, value) → (file, its PSNR)."""
    sizes, length = number_list("SIZES", settings.sizes), len(source.frames)
    asked = [("target_bytes", int(size)) for size in sizes]
    asked += [("target_bpp", round(8 * size / source.frames[..., 0].size, 4)) for size in sizes]
    asked += [("target_kbps", round(size / 125 * source.fps / length, 3)) for size in sizes] if length > 1 else []
    made, middle = [], 20.0

    def one(name: str, value: float) -> float:
        row = {"source": source.name, "what": what, "kind": name, "asked": value}
        try:
            stream, psnr = make(name, value)
        except VovError as error:
            made.append(({**row, "said": str(error)}, None))
            return 0.0
        made.append((row, stream))
        return psnr

    for number, pair in enumerate(asked):
        psnr = one(*pair)
        middle = psnr if psnr and number == len(sizes) // 2 else middle
    for more in number_list("QUALITIES", settings.qualities):
        one("target_psnr", round(middle + more, 2))
    return made


def of_theta(encoder, stage, theta, name: str, value: float, place: Path) -> tuple[Any, float]:
    """Stage 2, aimed; then the step that meets the target."""
    from vov.adapter.quantiser import from_symbols
    from vov.fitting.rate_control import with_final_step

    stage = dataclasses.replace(stage, **{name: value})
    encoder.check(stage)
    fitted = encoder.fit(stage, place / f"{name}{value}", {"unilora_theta_d": theta}, preview=False)
    stream = encoder.bitstream(stage, with_final_step(encoder, stage, fitted))
    return stream, encoder.quality(stage)(from_symbols(stream.symbols, stream.header.step))


def of_noise(settings: Targets, stage, source, backbone, name: str, value: float) -> tuple[Any, float]:
    """Noise on the frozen model, as image/encode.sh chooses it."""
    from vov.noise import rate_control
    from vov.noise.items import NoiseRun, add_noise, frozen_file
    from vov.noise.options import ScalingConfig

    scaling = ScalingConfig(steps=settings.noise_steps, scaling_bytes=100, score="likelihood", **{name: value})
    stream = frozen_file(backbone, [source], dataclasses.replace(stage, decode_steps=settings.noise_steps))
    made = rate_control.choose(
        scaling, stream, [source], backbone,
        lambda asked, spend=0: add_noise(stream, backbone, [source], asked, NoiseRun(spend=spend)))
    return made.stream, rate_control.quality(made.frames, made.stream, [source])


def got(stream, source, backbone, path: Path) -> dict:
    """What the file on disk has."""
    from vov import bitstream, metrics
    from vov.decoding.decode import decode

    path.parent.mkdir(parents=True, exist_ok=True)
    bitstream.write(path, stream)
    (clip,), size = decode(path, backbone), path.stat().st_size
    frames = len(clip.frames)
    return {"file": path.name, "target_bytes": size, "target_bpp": 8 * size / clip.frames[..., 0].size,
            "target_kbps": size / 125 * source.fps / frames, "psnr": metrics.psnr(source.frames, clip.frames)}


def table(rows: list[dict]) -> str:
    """Asked and got of every file, and how many are as they should be."""
    lines, right = ["source | of | variable | asked | got | error", "--- | --- | --- | ---: | ---: | ---:"], 0
    for row in rows:
        head = f"{row['source']} | {row['what']} | {row['kind'].upper()} | {row['asked']:g} | "
        if "said" in row:
            lines.append(f"{head}{row['said']} | ")
            continue
        value = row["psnr"] if row["kind"] == "target_psnr" else row[row["kind"]]
        error = value - row["asked"] if row["kind"] == "target_psnr" else 100 * (value / row["asked"] - 1)
        right += abs(error) <= 0.1 if row["kind"] == "target_psnr" else -3 <= error <= 0
        lines.append(f"{head}{value:.5g} | {error:+.2f} {'dB' if row['kind'] == 'target_psnr' else '%'}")
    refused = sum("said" in row for row in rows)
    return "\n".join([*lines, f"{right} of {len(rows)} met, {refused} refused with a reason"])


if __name__ == "__main__":
    cli.run(Targets, main, "SOURCES=a.png,b.png python -m studies.targets.run [--flag value …]")
