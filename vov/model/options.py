"""Which foundation model, where and how it runs: the variables of every command that loads one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vov import VovError
from vov.config import option

if TYPE_CHECKING:  # --help needs no torch
    from vov.bitstream import Header
    from vov.model.backbone import Backbone


@dataclass(frozen=True)
class ModelOptions:
    """The model of a command. Where a file says what it was made with, "auto" and "" mean just that."""

    model_id: str = option("", "hub id or folder of the foundation model; default: the one that the file names",
                           identity=False)
    cache_dir: str = option("../pretrained_models", "where the foundation models are (Hugging Face cache or folders)",
                            identity=False)
    device: str = option("auto", "cuda, cpu or auto", choices=("auto", "cuda", "cpu"), identity=False)
    dtype: str = option("auto", "arithmetic of the frozen model; auto: the file's; of a new fit bfloat16 on GPU, "
                        "float32 on CPU", choices=("auto", "float32", "bfloat16", "float16"), rare=True)
    quantize: str = option("auto", "storage of the frozen weights: none; fp8 (half the memory); nf4 (a quarter, needs "
                           "bitsandbytes); auto: the file's, of a new fit none",
                           choices=("auto", "none", "fp8", "nf4"))
    offload: str = option("none", "none; blocks: blocks wait on the host and visit the GPU in turn (slower, least "
                          "memory)", choices=("none", "blocks"), identity=False)
    attention: str = option("auto", "on an H100 or later: cudnn; flash (FlashAttention 4 or 3, see requirements-"
                            "hopper.txt); auto: of large models flash where it is installed, else cudnn",
                            choices=("auto", "cudnn", "flash"), identity=False, rare=True)
    decode_limit: float = option(1.0, "how much decoding a file may ask for, times 1,000 sampler steps, 2^28 pixels at "
                                 "a time (a picture: 2^24), 3e10 pixels × steps in all; 0: any", minimum=0,
                                 identity=False)
    collection: str = option("", "the .vovd file of a collection that the file names, or a folder of such; looked for "
                             "there, then beside the file, then in the cache", alias=("COLLECTION_DIR",),
                             identity=False)

    def precision(self, stored: str = "", source: str = "the file") -> str:
        """DTYPE and QUANTIZE as `Backbone.load` and headers write them: "auto", "bfloat16-fp8", …

        stored: what the header of `source` says. Its dtype may be overruled; its storage may not, since quantised
        weights are other weights.
        """
        dtype, _, storage = stored.partition("-")
        storage = storage or "none"
        if stored and (dtype not in ("auto", "float32", "bfloat16", "float16") or storage not in
                       ("none", "fp8", "nf4")):
            raise VovError(f"{source}: precision: is {stored!r:.40}, which this program does not know; the file is "
                           "damaged")
        if stored and self.quantize not in ("auto", storage):
            raise VovError(f"`quantize`={self.quantize}, but {source} was made with `quantize`={storage}, whose "
                           "weights are others; leave `quantize` unset")
        dtype = self.dtype if self.dtype != "auto" or not dtype else dtype
        storage = storage if self.quantize == "auto" else self.quantize
        return dtype if storage == "none" else f"{dtype}-{storage}"

    def load(self, kind: type[Backbone], made: Header | Mapping[str, Any] | None = None,
             source: str = "the file") -> Backbone:
        """The model that a file was made with, MODEL_ID over it, or the tree's usual one without either.

        made: a .vov file's header, or the metadata of a checkpoint.
        """
        stored, named = "", ""
        if isinstance(made, Mapping):
            config, identity = (part if isinstance(part := made.get(name), dict) else {} for name in
                                ("config", "identity"))
            named, stored = str(config.get("model_id", "")), str(identity.get("precision", ""))
        elif made is not None:
            named, stored = made.model_id, made.dtype
        model, trusted = self.model_id or named or kind.usual_model, bool(self.model_id) or isinstance(made, Mapping)
        if made is None and hasattr(self, "config"):  # a preset chooses the model, so another preset is a cure
            from vov.model.lookup import find_model

            find_model(model, self.cache_dir, trusted, instead=f"nano-{kind.tree}")
        backbone = kind.load(model, self.cache_dir, self.device, self.precision(stored, source), trusted=trusted,
                             offload=self.offload)
        if self.attention != "auto":
            backbone.choose_attention(self.attention)
        return backbone
