"""Pretraining of models/nano-video and models/nano-image. See pretrain_nano.sh for variables and order.

prepare  pack the media folder          vae   train the shared VAE, write it under both models
dit      train one transformer          card  measure both models and write their cards
"""

import argparse
import json
import logging
from pathlib import Path

import torch
from nano import data, dit, parts, vae


def train_vae(args) -> dict:
    bank = data.Bank(args.pack, args.device, limit=6 if args.tiny else 0)
    torch.manual_seed(args.seed)
    model = parts.new_vae()
    cfg = dict(vae.VAE_RUN)
    if args.resume:
        from diffusers import AutoencoderKLWan

        model = AutoencoderKLWan.from_pretrained(args.models / "nano-video" / "vae")
        cfg |= vae.VAE_DECODER if args.decoder_only else vae.VAE_RESUME
    cfg |= vae.TINY_VAE if args.tiny else {}
    summary = vae.train(model, bank, args.seconds, cfg, args.seed)
    if args.decoder_only:
        parts.save_vae(model, model.config.latents_mean, model.config.latents_std[0], args.out)
        return summary
    mean, std, own = vae.measure_latents(model, bank, args.seed)
    parts.save_vae(model, mean, std, args.out)
    return {**summary, "latents_std": std, "channel_std": [round(float(s) / std, 2) for s in own.sort().values]}


def train_dit(args) -> dict:
    from diffusers import AutoencoderKLWan, QwenImageTransformer2DModel, WanTransformer3DModel

    bank = data.Bank(args.pack, args.device, limit=6 if args.tiny else 0)
    frozen = AutoencoderKLWan.from_pretrained(args.models / "nano-video" / "vae")
    torch.manual_seed(args.seed)
    cfg = {**dit.DIT_RUN[args.family], **(dit.TINY_DIT if args.tiny else {})}
    model = parts.new_transformer(args.family)
    if args.resume:
        kind = WanTransformer3DModel if args.family == "video" else QwenImageTransformer2DModel
        model = kind.from_pretrained(args.models / f"nano-{args.family}" / "transformer")
        cfg |= {"lr": cfg["lr"] / 2, "adam_lr": cfg["adam_lr"] / 2}
    text = parts.text_stack(args.family, args.models)
    summary = dit.train(args.family, model, frozen, text, bank, args.seconds, cfg, args.seed)
    parts.save_pipeline(args.family, model.cpu(), text, args.out)
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "vae", "dit", "card"])
    parser.add_argument("--media", type=Path, help="the media folder (prepare), the test media (card)")
    parser.add_argument("--pack", type=Path, help="where prepare puts the packed media")
    parser.add_argument("--models", type=Path, default=Path("models"), help="models to start from and to measure")
    parser.add_argument("--out", type=Path, default=Path("models"), help="where trained parts go")
    parser.add_argument("--family", choices=["video", "image"], default="video")
    parser.add_argument("--seconds", type=float, default=480, help="wall-clock budget of this piece")
    parser.add_argument("--seed", type=int, default=20261123)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on from --models instead of from scratch")
    parser.add_argument("--decoder-only", action="store_true", help="with --resume: train the VAE's decoder alone")
    parser.add_argument("--tiny", action="store_true", help="smallest batches and a sliver of the media: a dry run")
    args = parser.parse_args()
    if args.decoder_only and not (args.resume and args.step == "vae"):
        parser.error("--decoder-only goes on from a trained VAE: use it with the step vae and --resume")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.step == "prepare":
        data.prepare(args.media, args.pack)
    elif args.step == "card":
        from nano import card

        card.write(args.models, args.media, args.pack)
    else:
        summary = train_vae(args) if args.step == "vae" else train_dit(args)
        name = args.step if args.step == "vae" else f"{args.step}-{args.family}"
        (args.out / f"run-{name}.json").write_text(
            json.dumps({"seed": args.seed, "resumed": args.resume, **summary}) + "\n"
        )
        logging.info("%s: %s", name, summary)


if __name__ == "__main__":
    main()
