"""What any of our inputs says of its θ: .vov files, checkpoints (ours or the reference's), PEFT folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vov import VovError, bitstream
from vov.adapter.adapt import AdapterSpec, adapt
from vov.adapter.quantiser import from_symbols
from vov.adapter.unilora import Adapter, Projection
from vov.formats import peft
from vov.formats.reference import load_reference, told_hash
from vov.model.backbone import Backbone

DEFAULTS: dict[str, dict[str, Any]] = {  # the published settings
    "video": {"rank": 1, "last_k": 30, "lora_preset": "qkvo", "proj_seed": 42},
    "image": {"rank": 4, "last_k": 60, "lora_preset": "qkvo", "proj_seed": 42},
}
LIMITS = {"rank": (1, 4096), "last_k": (1, 4096), "proj_seed": (0, 2**64 - 1)}
TOLD = ("caption", "width", "height", "num_frames", "decode_steps", "sampler", "shift", "seed", "guidance")


@dataclass(frozen=True, eq=False)
class Exportable:
    """A θ and what is known of it.

    theta: float32 [d], as decoded. step, density: the quantiser's, where the input has them.
    notes: header or metadata: model, rank, last_k, lora_preset, proj_seed, index_hash, caption, sampler, ...
    """

    source: Path
    theta: Tensor
    step: float | None = None
    density: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    peft: peft.PeftAdapter | None = None

    @property
    def model_id(self) -> str:
        """The name of the foundation model, empty when the input does not say."""
        return str(self.notes.get("model") or self.notes.get("model_id") or "")

    @property
    def told(self) -> dict[str, Any]:
        """What a LoRA file's metadata should repeat: caption, geometry, sampling."""
        return {key: self.notes[key] for key in TOLD if self.notes.get(key) not in (None, "")}

    def attach(self, backbone: type[Backbone], model: nn.Module,
               given: Mapping[str, Any]) -> tuple[Adapter, Projection]:
        """Adapter and projection of this θ in a transformer, whose weights are not looked at.

        Args:
            given: rank, last_k, lora_preset, proj_seed where the user says so (not None): over the input's own, which
                win over the published ones.
        Raises:
            VovError: settings out of range, or indices that differ from those the input was made with.
        """
        if self.peft:
            adapter = Adapter(model, self.peft.layers(model))
            return adapter, self.peft.projection(adapter)
        facts = DEFAULTS[backbone.tree] | {key: value for notes in (self.notes, given) for key, value in notes.items()
                                           if key in DEFAULTS[backbone.tree] and value is not None}
        for key, (low, high) in LIMITS.items():
            if type(facts[key]) is not int or not low <= facts[key] <= high:
                raise VovError(f"{self.source}: {key}: is {facts[key]!r:.40}, not a whole number from {low} to {high}; "
                               f"set `{key}`")
        spec = AdapterSpec(facts["rank"], self.theta.numel(), facts["last_k"], facts["lora_preset"],
                           facts["proj_seed"], told_hash(self.notes, self.source), str(self.source))
        return adapt(spec, backbone, model)


def read(path: str | Path) -> Exportable:
    """Tells the kinds of input apart by content. Raises VovError for anything else or damaged."""
    path = Path(path)
    if path.is_dir():
        found = peft.read_peft(path)
        return Exportable(path, found.theta, notes={"model": found.base_model}, peft=found)
    try:
        with path.open("rb") as file:
            is_vov = file.read(len(bitstream.MAGIC)) == bitstream.MAGIC
    except OSError as error:
        raise VovError(f"{path}: cannot be read ({error.strerror}); check `input`") from error
    if not is_vov:
        checkpoint = load_reference(path)
        config = checkpoint.metadata.get("config")
        notes = (config if isinstance(config, dict) else {}) | checkpoint.metadata
        notes.pop("format", None)  # what is written from here is no checkpoint to resume from
        return Exportable(path, checkpoint.theta_hat, checkpoint.step, checkpoint.estimator_state, notes)
    stream = bitstream.read(path)
    if stream.symbols is None or not stream.symbols.any():  # None: a sequence
        what = ("is a video of chunks, whose θ's, if any, are of its scenes" if stream.sequence else
                "holds coded noise and no θ")
        raise VovError(f"{path}: {what}, so there is nothing to export; fit the clip or picture (run_two_stage.sh, "
                       "train_multi.sh)")
    notes = {key: value.hex() if isinstance(value, bytes) else value for key, value in vars(stream.header).items()}
    notes["caption"] = "\n".join(item.caption for item in stream.items)
    return Exportable(path, from_symbols(stream.symbols, stream.header.step), stream.header.step, {}, notes)
