"""Where a foundation model is, where it runs and in which arithmetic. Nothing is ever downloaded here."""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch
from torch import nn

from vov import VovError
from vov.runtime.files import REPO

MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
# Models by the words for WHAT in scripts/fetch_models.sh.
MODELS = {"wan": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "wan-14b": "Wan-AI/Wan2.1-T2V-14B-Diffusers",
          "wan2.2-5b": "Wan-AI/Wan2.2-TI2V-5B-Diffusers", "qwen": "Qwen/Qwen-Image"}
GIGABYTES = {"wan": 29, "wan-14b": 81, "qwen": 58}  # where it was counted
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(device: str) -> torch.device:
    """"auto" is this process's GPU if there is one. Raises VovError for a GPU that is not there."""
    if device == "cuda" and not torch.cuda.is_available():
        raise VovError("`device`=cuda, but PyTorch finds no GPU; use `device`=cpu or a CUDA build of PyTorch")
    if device == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """"auto" is bfloat16 on GPU and float32 on CPU."""
    if dtype == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[dtype]


def quiet_libraries() -> None:
    """Silences the loading bars of diffusers and transformers, which would tear our own."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def own_memory(module: nn.Module) -> None:
    """Moves weights out of the mapped file: CPU kernels round differently with the alignment that they had there."""
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()


def find_model(model_id: str, cache_dir: str, trusted: bool = True, instead: str = "") -> Path:
    """The local folder of a model in diffusers' layout; nothing is ever downloaded.

    Looked up as a folder (only if `trusted`: a name from a file's header is not), in this repository's models/,
    under `cache_dir` by full or last name, and in `cache_dir` as a Hugging Face cache.
    Raises VovError with the command that fetches the weights, where there is one.
    instead: a preset that needs none fetched, for those who only forgot CONFIG.
    """
    if not trusted and not MODEL_NAME.fullmatch(model_id):
        raise VovError(f"{model_id!r} in the file's header is not a model name; the file is damaged or hostile")
    cache = Path(cache_dir).expanduser()
    places = [REPO / "models" / model_id, cache / model_id, cache / model_id.split("/")[-1]]
    if trusted:
        places.insert(0, Path(model_id).expanduser())
    for place in places:
        if model_id and (place / "model_index.json").is_file():
            return place
    snapshots = cache / ("models--" + model_id.replace("/", "--")) / "snapshots"
    if MODEL_NAME.fullmatch(model_id) and snapshots.is_dir():
        complete = [p for p in snapshots.iterdir() if (p / "model_index.json").is_file()]
        if complete:
            return max(complete, key=lambda p: p.stat().st_mtime)
    if trusted and model_id and Path(model_id).expanduser().exists():
        kind = "a single file" if Path(model_id).expanduser().is_file() else "a folder without model_index.json"
        raise VovError(f"`model_id`={model_id}: is {kind}; a folder in diffusers' layout is needed (model_index.json, "
                       "transformer/, vae/, text_encoder/, …)")
    what = next((word for word, name in MODELS.items() if name == model_id), "")
    first = f"CONFIG={instead} runs at once; " if instead and what else ""
    size = f" ({GIGABYTES[what]} GB)" if what in GIGABYTES else ""
    cure = (f"fetch them{size} with: CACHE_DIR={cache_dir} WHAT={what} bash scripts/fetch_models.sh" if what else
            "set `cache_dir` to where they are, or `model_id` to their folder")
    raise VovError(f"{first}no weights of {model_id or 'the model'} in `cache_dir`={cache_dir}; {cure}")


def public_name(model_id: str, path: Path) -> str:
    """The name that goes into a file's header: the hub id, or the last part of a local folder."""
    return model_id if MODEL_NAME.fullmatch(model_id) and not Path(model_id).exists() else path.resolve().name
