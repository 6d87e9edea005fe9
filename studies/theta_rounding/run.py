"""What a finished fit's rounding leaves on the table: rate–distortion optimised quantisation, and a step per group.

With J the derivative of the weighted errors by θ, moving θᵢ by δ changes the distortion by about Gᵢδ + ½Hᵢδ², where G
is the gradient at θ̂ and Hᵢ the diagonal of 2·JᵀJ/n (Gauss–Newton; Hutchinson's estimate over random signs).
RDOQ takes, for every entry, that of the three nearest symbols with the least change + λ·bits; one in
PARTS at a time, then G is taken anew, for entries act on each other.

If Hᵢ differed between groups of entries, each group would want its own step ∝ 1/√H. At a high rate that saves ½·log2 of
(arithmetic mean / geometric mean of H over the groups) bits an entry (Goyal, "Theoretical foundations of transform
coding", 2001).
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vov import VovError
from vov.config import cli, option


@dataclass(frozen=True)
class Rounding:
    """Which fit."""

    run: str = option("", "folder of a finished run_two_stage.sh (required)")
    frames_dir: str = option("", "its original (required)")
    probes: int = option(24, "random directions for the diagonal", minimum=2)
    parts: int = option(256, "an entry in so many is chosen at a time; the others stay", minimum=1)
    slopes: str = option("0,0.25,0.5,1,2", "λ of RDOQ, in multiples of what a bit is worth at the fit's own rate")
    steps: str = option("1,1.03,1.06,1.12,1.25", "plain rounding with the fit's step times these, to compare")


def main(settings: Rounding) -> None:
    """Prints a line for every way to round."""
    from vov import config
    from vov.commands.options import VideoFit
    from vov.config import number_list
    from vov.fitting.encoder import Encoder, read_start
    from vov.model.wan import WanBackbone

    if not settings.run or not settings.frames_dir:
        raise VovError("RUN and FRAMES_DIR are not both set; see --help")
    folder = Path(settings.run) / "stage2"
    if not (folder / "checkpoint.safetensors").is_file():
        raise VovError(f"RUN={settings.run}: holds no stage2/checkpoint.safetensors; give the OUT_DIR of a finished "
                       "run_two_stage.sh")
    given = {"config": str(folder / "config.yaml"), "frames_dir": settings.frames_dir, "init_lora_path": ""}
    fit = config.load(VideoFit, given, {}, "")
    backbone = fit.load(WanBackbone)
    with Encoder(backbone, fit.originals(), fit) as encoder:
        start = read_start(str(folder / "checkpoint.safetensors"), fit, backbone, encoder.model.projection)
        with tempfile.TemporaryDirectory() as scratch:
            study = Study(encoder, fit, start, Path(scratch))
            study.groups(settings.probes)
            for factor in number_list("STEPS", settings.steps, positive=True):
                study.say(f"rounded with {factor:g} × the step", study.plain(factor))
            for slope in number_list("SLOPES", settings.slopes):
                study.say(f"RDOQ, λ × {slope:g}", study.rdoq(slope, settings.parts))


class Study:
    """A fit at its end, and what can be asked of it."""

    def __init__(self, encoder, settings, start: dict, folder: Path):
        from vov.fitting.fit import Fit, FitContext, Fitted

        self.encoder, self.settings = encoder, settings
        self.fit = Fit(encoder.model, encoder.items, settings, folder,
                       FitContext(start=start, shift=encoder.header(settings).shift))
        self.fit._fill(0)
        self.theta, self.step = self.fit.theta.detach().cpu(), self.fit.rate.step_value
        self.quality = encoder.quality(settings)
        self.finished = Fitted(self.theta, self.step, folder)

    def plain(self, factor: float):
        """(symbols, step) of rounding with another step."""
        from vov.adapter.quantiser import to_symbols

        step = self.step * factor
        return to_symbols(self.theta, step).float(), step

    def say(self, name: str, coded) -> None:
        """One line: bytes of the file, PSNR of what it decodes to."""
        from vov import bitstream

        symbols, step = coded
        stream = self.encoder.bitstream(self.settings, dataclasses.replace(self.finished, theta=symbols * step,
                                                                          step=step))
        print(f"{name:<36} {len(bitstream.to_bytes(stream)):7,} bytes {self.quality(symbols * step):6.2f} dB",
              flush=True)

    def groups(self, probes: int) -> None:
        """Estimates the diagonal, and prints how much a step per group could save."""
        import torch

        from vov.fitting.loss import weighted
        from vov.runtime.random import Stream, normal

        total = torch.zeros_like(self.theta)
        for probe in range(probes):
            leaf = self.leaf(self.plain(1.0))
            error = weighted(self.fit._error(self.flat(leaf), slice(0, 1)), self.fit.weights)
            signs = normal(0, (Stream.OTHER, probe), error.shape, error.device).sign()
            total += torch.autograd.grad((error * signs).sum() * error.numel() ** -0.5, leaf)[0].cpu().square()
        self.curvature = 2 * total / probes
        print(f"curvature of an entry: {self.curvature.quantile(0.1):.2e} … {self.curvature.median():.2e} … "
              f"{self.curvature.quantile(0.9):.2e} (a tenth, half, nine tenths of them lie below)")
        for count in (8, 64, 512):
            parts = torch.stack([part.mean() for part in self.curvature.tensor_split(count)])
            print(f"a step for each of {count} groups: at most {gain(parts):.4f} bits an entry")
        ranked = self.curvature.sort().values  # groups that the decoder cannot know without being told
        parts = torch.stack([part.mean() for part in ranked.tensor_split(8)])
        print(f"a step for each of 8 groups by curvature, which would have to be sent: {gain(parts):.4f} bits an entry "
              f"({probes} probes: part of that is the estimate's own spread)")

    def leaf(self, coded):
        """θ̂ as a leaf to differentiate by."""
        symbols, step = coded
        return (symbols * step).to(self.fit.device).requires_grad_()

    def flat(self, leaf):
        """All LoRA entries of θ̂."""
        return self.encoder.model.projection.expand(leaf)

    def gradient(self, symbols):
        """Of the distortion by θ at these symbols: [d]."""
        import torch

        leaf = self.leaf((symbols, self.step))
        return torch.autograd.grad(self.fit._distortion(self.flat(leaf), slice(0, 1)), leaf)[0].cpu()

    def rdoq(self, slope: float, parts: int):
        """(symbols, step) by rate–distortion optimised quantisation at the fit's step."""
        import torch

        symbols, step = self.plain(1.0)
        # At a high rate D falls by 2·ln 2 a bit of its part that rounding makes: H·step²/12 ·½ an entry.
        worth = slope * float(self.curvature.mean()) * step**2 / 12 * 0.6931
        moves = torch.tensor([-1.0, 0.0, 1.0])
        for turn in range(parts):
            bits, slope_of = table(symbols), self.gradient(symbols)
            mine = torch.arange(turn, len(symbols), parts)
            near = symbols[mine, None] + moves
            change = (slope_of[mine, None] * moves * step + self.curvature[mine, None] / 2 * (moves * step) ** 2
                      + worth * bits[(near.long() + 129).clamp(0, 258)])
            symbols[mine] = near.gather(1, change.argmin(1, keepdim=True))[:, 0].clamp(-128, 128)
        return symbols, step


def gain(parts) -> float:
    """½·log2(arithmetic / geometric mean)."""
    return float(0.5 * (parts.mean().log2() - parts.log2().mean()))


def table(symbols):
    """Bits of every symbol −129…129 by the present counts, a symbol that does not occur as if it did once: [259]."""
    import torch

    counts = torch.bincount(symbols.long() + 129, minlength=259).float()
    return (len(symbols) / counts.clamp_min(0.5)).log2()


if __name__ == "__main__":
    cli.run(Rounding, main, "RUN=runs/clip FRAMES_DIR=clip python -m studies.theta_rounding.run")
