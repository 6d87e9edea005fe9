"""The parts of the two models: configurations, fixed text encoders, tokenizers, schedulers, saving.

Every configuration keeps the real model's choices (norms, rotary embedding, scheduler) and shrinks only its sizes.
The text encoders are drawn once from a seed and never trained: they only have to give different captions different,
stable embeddings; the transformers learn to read those.
"""

import json
import lzma
from pathlib import Path

import torch

from vov import VovError
from vov.runtime.files import write_bytes

HERE = Path(__file__).parent
Z_DIM, TEXT_DIM, TEXT_SEED = {"video": 64, "image": 48}, 64, 20261123
SHARD = "15MB"  # no file of the repository is above 16 MiB
# Two pixels by two are one for the video VAE (`patch_size`, as in Wan2.2): at equal speed on a CPU its layers can be
# three times as wide as at full resolution. Qwen-Image's class has no patches.
VAES = {
    "video": {"base_dim": 16, "z_dim": Z_DIM["video"], "dim_mult": [6, 8, 8], "num_res_blocks": 1, "attn_scales": [],
              "temperal_downsample": [True, True], "dropout": 0.0, "in_channels": 12, "out_channels": 12,
              "patch_size": 2},
    "image": {"base_dim": 16, "z_dim": Z_DIM["image"], "dim_mult": [2, 4, 5, 5], "num_res_blocks": 1, "attn_scales": [],
              "temperal_downsample": [False, True, True], "dropout": 0.0},
}
WAN = {
    "patch_size": (1, 2, 2),
    "num_attention_heads": 5,
    "attention_head_dim": 64,
    "in_channels": Z_DIM["video"],
    "out_channels": Z_DIM["video"],
    "text_dim": TEXT_DIM,
    "freq_dim": 256,
    "ffn_dim": 1216,
    "num_layers": 8,
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "rope_max_seq_len": 1024,
}
QWEN = {
    "patch_size": 2,
    "in_channels": 4 * Z_DIM["image"],
    "out_channels": Z_DIM["image"],
    "num_layers": 4,
    "attention_head_dim": 64,
    "num_attention_heads": 4,
    "joint_attention_dim": TEXT_DIM,
    "guidance_embeds": False,
    "axes_dims_rope": (16, 24, 24),
}
WAN_SCHEDULER = {
    "num_train_timesteps": 1000,
    "prediction_type": "flow_prediction",
    "use_flow_sigmas": True,
    "flow_shift": 3.0,
    "solver_order": 2,
    "predict_x0": True,
    "solver_type": "bh2",
}
QWEN_SCHEDULER = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 8192,
    "max_shift": 0.9,
    "num_train_timesteps": 1000,
    "shift": 1.0,
    "shift_terminal": 0.02,
    "time_shift_type": "exponential",
    "use_dynamic_shifting": True,
}
DROPPED = 34
# The pipeline drops the template's first 34 tokens, so the small tokenizer has to cut it exactly as the real one does.
TEMPLATE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, "
    "spatial relationships of the objects and background:<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n"
    "<|im_start|>assistant\n"
)
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)


def words(captions: list[str]) -> list[str]:
    """The vocabulary: every word of the captions and of words.txt, also capitalised, sorted."""
    found = set((HERE / "words.txt").read_text(encoding="utf-8").split())
    for caption in captions:
        found |= set(caption.split())
    return sorted(found | {w.capitalize() for w in found})


def t5_tokenizer(vocabulary: list[str]):
    """Unigram pieces: whole words where known, single characters otherwise."""
    from transformers import T5Tokenizer

    characters = [chr(c) for c in range(33, 127)]
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -12.0)]
    vocab += [("▁" + w, -6.0) for w in vocabulary if len(w) > 1] + [("▁" + c, -11.0) for c in characters]
    vocab += [(c, -12.0) for c in characters]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def qwen_tokenizer(vocabulary: list[str]):
    """Byte-level BPE in which every known word, with and without a leading space, is one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    plain = TEMPLATE.replace("<|im_start|>", "\x00").replace("<|im_end|>", "\x00").replace("{}", "\x00")
    corpus = plain.split("\x00") * 9 + [f" {w} {w}" for w in vocabulary] * 3 + vocabulary * 2
    trainer = trainers.BpeTrainer(
        vocab_size=60000, min_frequency=2, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    bpe.train_from_iterator(corpus, trainer)
    model = json.loads(bpe.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    prefix = TEMPLATE.split("{}")[0]
    count = len(tokenizer(prefix).input_ids)
    if count != DROPPED:
        raise VovError(f"the template's prefix has {count} tokens, Qwen-Image's pipeline drops {DROPPED}; the "
                       "installed tokenizers library merges differently, use the version in requirements.txt")
    return tokenizer


def text_encoders(t5_vocab: int, qwen_vocab: int):
    """The two fixed text encoders: UMT5 (2 layers of 64) and Qwen2.5-VL (2 layers of 64, a vision tower in name)."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, UMT5Config, UMT5EncoderModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(TEXT_SEED)
        umt5 = UMT5EncoderModel(
            UMT5Config(
                vocab_size=t5_vocab,
                d_model=TEXT_DIM,
                d_kv=16,
                d_ff=128,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
                feed_forward_proj="gated-gelu",
            )
        )
        qwen = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config={
                    "hidden_size": TEXT_DIM,
                    "intermediate_size": 128,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 4,
                    "num_key_value_heads": 2,
                    "vocab_size": qwen_vocab,
                    "max_position_embeddings": 2048,
                    "rope_theta": 1000000.0,
                    "tie_word_embeddings": True,
                    "rope_scaling": {"type": "default", "rope_type": "default", "mrope_section": [2, 3, 3]},
                    "bos_token_id": None,
                    "eos_token_id": None,
                    "pad_token_id": None,
                },
                vision_config={
                    "depth": 1,
                    "hidden_size": 16,
                    "intermediate_size": 16,
                    "num_heads": 2,
                    "out_hidden_size": TEXT_DIM,
                    "fullatt_block_indexes": [0],
                },
                tie_word_embeddings=True,
            )
        )
    return umt5.eval().requires_grad_(False), qwen.eval().requires_grad_(False)


def vae_class(family: str) -> type:
    """diffusers' class of a family's VAE."""
    from diffusers import AutoencoderKLQwenImage, AutoencoderKLWan

    return AutoencoderKLWan if family == "video" else AutoencoderKLQwenImage


def transformer_class(family: str) -> type:
    """diffusers' class of a family's transformer."""
    from diffusers import QwenImageTransformer2DModel, WanTransformer3DModel

    return WanTransformer3DModel if family == "video" else QwenImageTransformer2DModel


def new_vae(family: str, mean: list[float] | None = None, std: float = 1.0):
    """A VAE with random weights; `mean` and `std` of its latents are what the pipelines normalise with."""
    z = Z_DIM[family]
    return vae_class(family)(**VAES[family], latents_mean=mean or [0.0] * z, latents_std=[std] * z)


def new_transformer(family: str, z_dim: int = 0):
    """A transformer with random weights and no output, for latents of `z_dim` channels (0: a new VAE's)."""
    z = z_dim or Z_DIM[family]
    sizes = WAN | {"in_channels": z, "out_channels": z} if family == "video" else QWEN | {"in_channels": 4 * z,
                                                                                        "out_channels": z}
    model = transformer_class(family)(**sizes)
    with torch.no_grad():  # the velocity starts at zero, the adaptive norms of Qwen-Image at the identity
        model.proj_out.weight.zero_()
        model.proj_out.bias.zero_()
        for name, p in model.named_parameters():
            if "_mod.1." in name:
                p.mul_(0.1)
    return model


def to_bf16(module: torch.nn.Module) -> torch.nn.Module:
    """All parameters in bfloat16, those too that diffusers would keep in float32: loading widens them exactly."""
    for p in module.parameters():
        p.data = p.data.to(torch.bfloat16)
    return module


def save_vae(family: str, vae, mean: list[float], std: list[float], models: Path) -> None:
    """The VAE's weights with the mean of its latents and what they are divided by.

    nano-image's is for stills alone: what its kernels would take from frames before is zero."""
    config = {k: v for k, v in vae.config.items() if not k.startswith("_")}  # without the place it was loaded from
    model = type(vae).from_config(config, latents_mean=[round(m, 5) for m in mean],
                                  latents_std=[round(s, 5) for s in std])
    model.load_state_dict({k: v.detach().float().cpu().contiguous() for k, v in vae.state_dict().items()})
    for name, p in model.named_parameters() if family == "image" else ():
        if p.ndim == 5 and p.shape[2] > 1:
            p.data[:, :, : None if "time_conv" in name else -1] = 0
    to_bf16(model).save_pretrained(models / f"nano-{family}" / "vae", max_shard_size=SHARD)


def unpack(packed: Path, out: Path) -> None:
    """A folder of models whose weights are packed with xz, as stock folders."""
    for path in sorted(p for p in packed.rglob("*") if p.is_file()):
        target, data = out / path.relative_to(packed), path.read_bytes()
        target.parent.mkdir(parents=True, exist_ok=True)
        packed_so = path.suffix == ".xz"
        write_bytes(target.with_suffix("") if packed_so else target, lzma.decompress(data) if packed_so else data)


def load_part(kind: type, models: Path, family: str, part: str):
    """One part of a model in float32. Raises VovError when it is not there."""
    folder = models / f"nano-{family}" / part
    if not (folder / "config.json").is_file():
        raise VovError(f"{folder}: no {part} here; train it first (models/pretraining/pretrain.sh --help), or name the "
                       "folder that holds nano-video/ and nano-image/ with OUT")
    return kind.from_pretrained(folder, torch_dtype=torch.float32)


def text_stack(family: str, models: Path, captions: list[str]):
    """(tokenizer, text encoder) of one family: those under `models` if there are any, else drawn anew.

    A transformer that is trained further must keep its own: another vocabulary gives every word another embedding, and
    another library version may draw other numbers from the same seed.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer, T5Tokenizer, UMT5EncoderModel

    root = models / f"nano-{family}"
    if (root / "text_encoder" / "config.json").is_file():
        kinds = ((T5Tokenizer, UMT5EncoderModel) if family == "video"
                 else (Qwen2Tokenizer, Qwen2_5_VLForConditionalGeneration))
        return kinds[0].from_pretrained(root / "tokenizer"), kinds[1].from_pretrained(root / "text_encoder").eval()
    vocabulary = words(captions)
    t5, qwen = t5_tokenizer(vocabulary), qwen_tokenizer(vocabulary)
    encoders = text_encoders(len(t5), len(qwen))
    return (t5, encoders[0]) if family == "video" else (qwen, encoders[1])


def save_pipeline(family: str, transformer, text, models: Path) -> None:
    """Everything but the VAE of one model, and the index that makes the folder a stock pipeline.

    The text encoders stay float32: transformers loads them in the dtype it finds, and the stock pipelines feed their
    output to a float32 transformer."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler

    root = models / f"nano-{family}"
    text[0].save_pretrained(root / "tokenizer")
    text[1].save_pretrained(root / "text_encoder")
    to_bf16(transformer).save_pretrained(root / "transformer", max_shard_size=SHARD)
    if family == "video":
        UniPCMultistepScheduler(**WAN_SCHEDULER).save_pretrained(root / "scheduler")
        index = {
            "_class_name": "WanPipeline",
            "boundary_ratio": None,
            "expand_timesteps": True,
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "text_encoder": ["transformers", "UMT5EncoderModel"],
            "tokenizer": ["transformers", "T5Tokenizer"],
            "transformer": ["diffusers", "WanTransformer3DModel"],
            "transformer_2": [None, None],
            "vae": ["diffusers", "AutoencoderKLWan"],
        }
    else:
        FlowMatchEulerDiscreteScheduler(**QWEN_SCHEDULER).save_pretrained(root / "scheduler")
        index = {
            "_class_name": "QwenImagePipeline",
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "Qwen2_5_VLForConditionalGeneration"],
            "tokenizer": ["transformers", "Qwen2Tokenizer"],
            "transformer": ["diffusers", "QwenImageTransformer2DModel"],
            "vae": ["diffusers", "AutoencoderKLQwenImage"],
        }
    (root / "model_index.json").write_text(
        json.dumps({**index, "_diffusers_version": "0.41.0"}, indent=2, sort_keys=True) + "\n"
    )
