"""Takes a θ to other people's tools: `INPUT=x.vov OUTPUT=x.safetensors bash scripts/export.sh`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vov import VovError
from vov.config import cli, option, read_by
from vov.model.registry import TRANSFORMERS, backbone_class
from vov.runtime.files import content_hash, path_hash, refuse_overlap, there
from vov.runtime.resumable import Outputs

if TYPE_CHECKING:
    from torch import nn

    from vov.model.backbone import Backbone


@dataclass(frozen=True)
class Export:
    """What is exported; the last four are only needed where the input does not say (reference checkpoints)."""

    input: str = option("", "a .vov file, a checkpoint (ours or the reference's) or a PEFT UniLoRA folder (required)")
    output: str = option("", "file (.safetensors) to write; for FORMAT=peft a folder (required)")
    format: str = option("lora", "lora (diffusers, ComfyUI), peft (PeftModel.from_pretrained), reference (checkpoint)",
                         choices=("lora", "peft", "reference"))
    cache_dir: str = option("../pretrained_models", "where the foundation models are; only their shapes are read")
    overwrite: bool = option(False, "replace existing outputs")
    model_id: str = option("", "hub id or folder of the foundation model; default: the one that the input names",
                           alias=("WAN_MODEL_ID",))
    rank: int = option(0, "LoRA rank; 0: the input's, else 1 for video, 4 for images", minimum=0)
    last_k: int = option(0, "adapted blocks; 0: the input's, else 30 for video, 60 for images", minimum=0)
    lora_preset: str = option("", "adapted linears: qkvo, qkv or qkvo_mlp; empty: the input's, else qkvo")
    proj_seed: int = option(-1, "seed of UniLoRA's indices; -1: the input's, else 42", minimum=-1)

    def given(self) -> dict:
        """The settings that the user gave over the input's own."""
        return {"rank": self.rank or None, "last_k": self.last_k or None, "lora_preset": self.lora_preset or None,
                "proj_seed": self.proj_seed if self.proj_seed >= 0 else None}


def skeleton(model_id: str, cache_dir: str, trusted: bool) -> tuple[type[Backbone], nn.Module, str]:
    """(backbone class, transformer without weights, public name) of a model."""
    import diffusers
    import torch

    from vov.model.lookup import find_model, public_name, quiet_libraries

    quiet_libraries()
    folder = find_model(model_id, cache_dir, trusted)
    path = folder / "transformer" / "config.json"
    try:
        config = json.loads(path.read_bytes())
        kind = config["_class_name"]
        medium = TRANSFORMERS[kind]
        with torch.device("meta"):
            model = getattr(diffusers, kind).from_config(config)
        return backbone_class(medium), model, public_name(model_id, folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise VovError(f"{path}: not the configuration of a Wan or Qwen-Image transformer; check MODEL_ID") from error


def main(settings: Export) -> None:
    """Reads, expands, writes."""
    if not settings.input or not settings.output:
        raise VovError("INPUT and OUTPUT must be set; see --help")
    output = Path(settings.output)
    if settings.format != "peft" and output.suffix != ".safetensors":
        raise VovError(f"OUTPUT={output}: must end in .safetensors for FORMAT={settings.format}")
    if settings.format == "peft" and output.is_file():
        raise VovError(f"OUTPUT={output}: is a file; FORMAT=peft writes a folder")
    refuse_overlap([output], read_by(settings), "output")
    identity = content_hash(path_hash(settings.input) if there(settings.input) else "", settings.format,
                            settings.model_id, sorted(settings.given().items()))
    with Outputs(output.name, [output], identity, settings.overwrite, "output") as outputs:
        if outputs.complete:
            print(f"{output} is there already, from the same input and settings")
            return
        write(settings, output, outputs)
        outputs.finish()


def write(settings: Export, output: Path, outputs: Outputs) -> None:
    """Expands θ and writes it in the format that is asked for."""
    from vov.adapter.adapted import factors_of
    from vov.formats import export, lora, peft, reference

    found = export.read(settings.input)
    if settings.format == "reference":
        outputs.make(output, lambda: reference.save_reference(output, found.theta, found.step, found.density,
                                                              found.notes))
        print(f"{output}: checkpoint with θ of {len(found.theta)} entries")
        return
    model_id = settings.model_id or found.model_id
    if not model_id:
        raise VovError(f"{settings.input} does not name its foundation model; set MODEL_ID")
    backbone, model, name = skeleton(model_id, settings.cache_dir, trusted=bool(settings.model_id))
    adapter, projection = found.attach(backbone, model, settings.given())
    if settings.format == "peft":
        outputs.make(output, lambda: peft.write_peft(output, found.theta, adapter.names, projection, name))
    else:
        factors = factors_of(projection, found.theta)
        outputs.make(output, lambda: lora.write_lora(output, adapter.names, factors, backbone.tree,
                                                     {"model_id": name, **found.told}))
    print(f"{output}: {settings.format} of {len(adapter.names)} layers, rank {projection.rank}, for {name}")
    if "decode_steps" in found.notes:
        print(f"fitted to {found.notes['decode_steps']} sampler steps from our noise of seed "
              f"{found.notes.get('seed')}: other steps and other noise show the content less exactly")


if __name__ == "__main__":
    cli.run(Export, main, "INPUT=x.vov OUTPUT=x.safetensors [FORMAT=lora|peft|reference] bash scripts/export.sh")
