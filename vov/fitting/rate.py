"""How many bits θ costs while it is fitted: the learned quantiser step and the learned rate model.

The quantiser is that of `vov.adapter.quantiser`, its step learned; the rate model is the factorised density of Ballé
et al., "Variational image compression with a scale hyperprior" (ICLR 2018, appendix 6.1) over θ / step, whose bin of
width one around a symbol is that symbol's probability.

The learned density shapes theta during the fit and gives the gradient of the rate. It is not what the file is
coded with: `vov.bitstream.symbols` counts the symbols that are really written; `empirical_bits` estimates its size.
Everything here is float32 whatever autocast or TF32 setting is in force.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vov import VovError
from vov.adapter.quantiser import theta_hat, to_symbols
from vov.bitstream.header import SYMBOL_LIMIT
from vov.runtime.random import Stream, uniform


def soft_round(x: Tensor, temperature: Tensor | float) -> Tensor:
    """Between x and round(x), differentiable: ⌊x⌋ + ½ + tanh(r/T) / (2·tanh(1/(2T))) with r = x − ⌊x⌋ − ½; x's shape.

    T = 1 is nearly x, T = 0.05 nearly round(x). Agustsson and Theis, "Universally quantized neural compression" (2020).
    """
    middle = torch.floor(x.detach()) + 0.5
    scale = torch.as_tensor(temperature, device=x.device)
    return middle + torch.tanh((x - middle) / scale) / (2 * torch.tanh(0.5 / scale))


def softness(done: float) -> float:
    """Temperature of soft rounding when a share `done` of a fit is over: 0.5 … 0.1, and 0 (straight-through) in the
    last fifth, as C3 ends too (Kim et al., "C3: high-performance and low-complexity neural compression", 2024)."""
    return 0.5 * 0.2 ** (done / 0.8) if done < 0.8 else 0.0


def quantiser_noise(seed: int, step: int, like: Tensor) -> Tensor:
    """The uniform noise in [-0.5, 0.5) of optimiser step `step`, of the shape and on the device of `like`."""
    return uniform(seed, (Stream.QUANTISER, step), like.shape, like.device) - 0.5


def empirical_bits(symbols: np.ndarray | Tensor) -> float:
    """Total order-0 entropy of integer symbols, in bits: what an ideal coder with a table of counts would spend.

    The file has the table on top (about a byte per distinct symbol) and at most 16 bytes.
    """
    values = symbols.detach().cpu().numpy() if isinstance(symbols, Tensor) else np.asarray(symbols)
    if values.size == 0:
        return 0.0
    counts = np.unique(values, return_counts=True)[1].astype(np.float64)
    return float(np.sum(counts * np.log2(values.size / counts)))


def _inverse_softplus(value: float) -> float:
    return value + math.log(-math.expm1(-value))


class RateModel(nn.Module):
    """Learned step and learned density of theta / step; one scalar distribution for all entries.

    scale_quant      raw step []; the step is softplus of it, hence positive.
    bit_estimator    the density's parameters (compressai's EntropyBottleneck with one channel).
    These are the names in reference checkpoints behind their prefix `unilora_`; see `load_reference`.
    """

    def __init__(self, step: float = 0.01, spread: float = 2.0):
        """step: initial step, in units of theta. spread: initial standard deviation of theta / step."""
        super().__init__()
        from compressai.entropy_models import EntropyBottleneck  # takes ten seconds, and decoding does not need it

        if not (math.isfinite(step) and step > 0 and math.isfinite(spread) and spread > 0):
            raise VovError(f"rate model: step {step} and spread {spread} must be positive; check theta for NaN")
        self.scale_quant = nn.Parameter(torch.tensor(_inverse_softplus(step), dtype=torch.float32))
        # A logistic density of scale s has standard deviation s·π/√3; the EntropyBottleneck starts as a logistic
        # of scale init_scale, shifted by biases it draws from the global generator, which is left untouched here.
        with torch.random.fork_rng(devices=[]):
            self.bit_estimator = EntropyBottleneck(1, init_scale=max(spread, 0.1) * math.sqrt(3) / math.pi)
        self.bit_estimator.quantiles.requires_grad_(False)  # of compressai's own tables, which are not used
        self._reset_biases()

    @classmethod
    def from_theta(cls, theta: Tensor, bits_per_entry: float) -> RateModel:
        """The model whose step makes the rounded symbols of `theta` cost `bits_per_entry` (order-0 entropy).

        bits_per_entry: in (0, 8). Raises VovError when theta is constant or not finite.
        """
        values = theta.detach().float().flatten().cpu().numpy().astype(np.float64)
        std = float(values.std()) if values.size else 0.0
        if not math.isfinite(std) or std == 0:
            raise VovError("rate model: theta is constant or not finite; lower `lr` or restart stage 1")
        if not 0 < bits_per_entry < 8:
            raise VovError(f"rate model: {bits_per_entry} bits per entry; choose a number between 0 and 8")
        low, high = math.log(std * 2.0**-7), math.log(std * 2.0**7)
        for _ in range(30):  # the entropy falls (nearly) monotonically with the step
            middle = (low + high) / 2
            symbols = np.clip(np.rint(values / math.exp(middle)), -SYMBOL_LIMIT, SYMBOL_LIMIT)
            low, high = (middle, high) if empirical_bits(symbols) > bits_per_entry * values.size else (low, middle)
        step = math.exp((low + high) / 2)
        return cls(step, spread=std / step).to(theta.device)

    def set_step(self, step: float) -> None:
        """Makes `step` the quantiser step, in place."""
        with torch.no_grad():
            self.scale_quant.fill_(_inverse_softplus(step))

    @property
    def step(self) -> Tensor:
        """The quantiser step [], positive, differentiable."""
        return F.softplus(self.scale_quant.float())

    @property
    def step_value(self) -> float:
        """The step as a float32 value: what the file's header holds."""
        return float(self.step.detach())

    def theta_hat(self, theta: Tensor, mode: str = "ste", noise: Tensor | None = None) -> Tensor:
        """`theta_hat` at this model's step."""
        return theta_hat(theta, self.step, mode, noise)

    def forward(self, theta: Tensor, noise: Tensor | None, temperature: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(what the model is adapted with, total bits []) of theta [d] in one training step.

        That is θ̂ as decoded, with straight-through gradient; where temperature [] > 0, θ softly rounded.
        """
        hard = self.theta_hat(theta, "ste")
        if temperature is not None:
            scaled = torch.clamp(theta.float() / self.step, -SYMBOL_LIMIT, SYMBOL_LIMIT)
            soft = soft_round(scaled, temperature.clamp_min(0.01)) * self.step
            hard = torch.where(temperature > 0, soft, hard)  # a tensor decides: a captured step has no branches
        return hard, self.bits(theta, noise)

    def bits(self, theta: Tensor, noise: Tensor | None) -> Tensor:
        """Total bits [] of theta (any shape) with uniform noise in ±0.5 of that shape in place of rounding.

        Differentiable in theta, the step and the density. The noise is an argument so that a fit is reproducible
        and a captured graph reads it from a buffer. Without noise (None) the values are rounded, straight-through.
        Noise costs more than rounding when most symbols are 0: 0.5 against 0.1 bits, 1.07 against 1, 2.01 against 2
        for a Gaussian theta.
        """
        mode = "ste" if noise is None else "noise"
        return self.symbol_bits(self.theta_hat(theta, mode, noise) / self.step).sum()

    def symbol_bits(self, values: Tensor) -> Tensor:
        """-log2 p(v) of each value: p(v) = σ(u) - σ(l), the mass of [v - ½, v + ½]; values' shape, >= 0.

        Written as σ(u)·σ(-l)·(1 - e^(l-u)), the same number, which keeps its precision and gradient in the
        tails, where σ(u) - σ(l) is 0 in float32. u - l is held above 1e-9 (30 bits or so per unlikely symbol).
        """
        with torch.autocast(values.device.type, enabled=False):
            flat = values.float().reshape(1, 1, -1)
            lower, upper = self._logits(torch.cat((flat - 0.5, flat + 0.5), dim=-1)).chunk(2, dim=-1)
            mass = -torch.expm1(-(upper - lower).clamp_min(1e-9))
            nats = F.softplus(-upper) + F.softplus(lower) - torch.log(mass)
            return nats.reshape(values.shape) / math.log(2)

    def symbols(self, theta: Tensor) -> Tensor:
        """int32 symbols in ±128 of theta's shape: what is written to the file."""
        return to_symbols(theta, self.step)

    def parameter_groups(self, lr: float, density_lr: float | None = None) -> list[dict]:
        """Two optimiser groups without weight decay: the step at `lr`, the density at `density_lr` (default lr)."""
        density = [p for p in self.bit_estimator.parameters() if p.requires_grad]
        return [
            {"params": [self.scale_quant], "lr": lr, "weight_decay": 0.0, "name": "step"},
            {"params": density, "lr": density_lr or lr, "weight_decay": 0.0, "name": "density"},
        ]

    def load_reference(self, tensors: dict[str, Tensor]) -> list[str]:
        """Loads `unilora_scale_quant` and those `unilora_bit_estimator.*` whose name and shape fit.

        Older compressai called `matrices.0` `_matrix0`; both are understood. Returns the names that were not used.
        """
        own = dict(self.named_parameters())
        unused = []
        for key, value in tensors.items():
            name = key.removeprefix("unilora_")
            for new, old in (("matrices", "_matrix"), ("biases", "_bias"), ("factors", "_factor")):
                name = name.replace(f"bit_estimator.{old}", f"bit_estimator.{new}.")
            if key.startswith("unilora_") and name in own and own[name].numel() == value.numel():
                own[name].data.copy_(value.reshape(own[name].shape))
            else:
                unused.append(key)
        return unused

    def _logits(self, values: Tensor) -> Tensor:
        """Logit of the cumulative distribution, [1, 1, n] → [1, 1, n]: EntropyBottleneck's own network.

        Sums of products rather than matmul, which TF32 and autocast would round to 10 bits: u - l needs all 24.
        """
        model = self.bit_estimator
        for i, (matrix, bias) in enumerate(zip(model.matrices, model.biases, strict=True)):
            values = (F.softplus(matrix).unsqueeze(-1) * values.unsqueeze(-3)).sum(dim=-2) + bias
            if i < len(model.factors):
                values = values + torch.tanh(model.factors[i]) * torch.tanh(values)
        return values

    @torch.no_grad()
    def _reset_biases(self) -> None:
        """Fixed biases, different for every hidden unit (else units would stay equal), with median zero."""
        for bias in self.bit_estimator.biases:
            bias.copy_(torch.linspace(-0.5, 0.5, bias.numel()).reshape(bias.shape) if bias.numel() > 1 else 0 * bias)
        self.bit_estimator.biases[-1].sub_(self._logits(torch.zeros(1, 1, 1)))
