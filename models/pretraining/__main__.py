"""Pretraining of models/nano-video and models/nano-image. See pretrain.sh for variables and order.

prepare  pack the media folder          vae   train one VAE and measure its latents
dit      train one transformer          both  a VAE and then its transformer, on media read once
latents  measure a VAE's latents again  card  measure both models and write their cards
unpack   models/next, whose weights are packed with xz, into stock folders
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import torch

from vov import VovError
from vov.runtime.files import write_json

from . import bank, dit, loop, pack, parts, vae


def train_vae(args, device: str, media: bank.Bank) -> dict:
    """One piece of a VAE's training; the latents' basis and statistics follow, unless only the decoder is trained."""
    torch.manual_seed(args.seed)
    load = lambda kind, part: parts.load_part(kind(args.family), args.models, args.family, part)  # noqa: E731
    model, restore = load(parts.vae_class, "vae") if args.refine else parts.new_vae(args.family), None
    cfg = vae.recipe(args.family, args.refine, args.decoder_only, args.tiny)
    budget, state = loop.Budget(args.seconds, args.steps), args.state / f"vae-{args.family}.pt"
    if args.coded:
        transformer = load(parts.transformer_class, "transformer").to(device).eval().requires_grad_(False)
        text = dit.embed_captions(args.family, parts.text_stack(args.family, args.models, [""]), [""], device)
        restore = dit.restoring(args.family, model, transformer, text)
    summary = vae.train(model, media, budget, cfg, args.seed, state, args.resume, restore)
    if args.decoder_only:
        parts.save_vae(args.family, model, model.config.latents_mean, model.config.latents_std, args.out)
        return summary
    vae.equalise(model, media, args.family, args.seed, args.tiny)
    return {**summary, **save_measured(args, model, media)}


def save_measured(args, model, media: bank.Bank) -> dict:
    """Measures a VAE's latents, cuts out what carries nothing and saves the rest; returns what the card tells."""
    own = vae.measure_latents(model, media, args.family, args.seed, args.tiny)
    model.register_to_config(latents_mean=own["mean"])
    model = vae.without_dead_channels(model.cpu(), own["own"])
    live = [s for s in own["own"] if s >= vae.DEAD]
    power = vae.SPREAD[args.family] if args.spread is None else args.spread
    parts.save_vae(args.family, model, model.config.latents_mean, vae.spread_of(live, power), args.out)
    return {"latents_std": own["std"], "channel_std": [round(s, 4) for s in live]}


def train_dit(args, rank: int, device: str, media: bank.Bank) -> dict:
    """One piece of a transformer's training on the finished VAE."""
    held = bank.Bank(args.pack, device, held_out=True, clips=args.family == "video")
    frozen = parts.load_part(parts.vae_class(args.family), args.models, args.family, "vae")
    torch.manual_seed(args.seed)
    cfg = dit.RECIPES[args.family] | (dit.REFINE if args.refine else {}) | (dit.TINY[args.family] if args.tiny else {})
    cfg["shapes"] = cfg["shapes"][: args.shapes]
    model = (parts.load_part(parts.transformer_class(args.family), args.models, args.family, "transformer")
             if args.refine else parts.new_transformer(args.family, frozen.config.z_dim))
    text = parts.text_stack(args.family, args.models, media.captions)
    budget, state = loop.Budget(args.seconds, args.steps), args.state / f"dit-{args.family}.pt"
    summary = dit.train(args.family, model, frozen, text, media, budget, cfg, args.seed, rank, state, args.resume,
                        held)
    if rank == 0:
        parts.save_pipeline(args.family, model.cpu(), text, args.out)
    return summary


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m models.pretraining", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "vae", "dit", "both", "latents", "card", "unpack"])
    parser.add_argument("--media", type=Path, help="the media folder (prepare), the test media (card)")
    parser.add_argument("--pack", type=Path, default=Path("runs/nano-pack"), help="where prepare puts the packed media")
    parser.add_argument("--limit", type=int, default=0, help="prepare: so many items of each source (a dry run)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="models to go on from and to measure")
    parser.add_argument("--out", type=Path, default=Path("models"), help="where trained parts go")
    parser.add_argument("--state", type=Path, default=Path("runs/nano-state"), help="where running pieces keep theirs")
    parser.add_argument("--family", choices=["video", "image"], default="video")
    parser.add_argument("--seconds", type=float, default=480, help="wall-clock budget of this piece")
    parser.add_argument("--then", type=float, default=480, help="both: the transformer's budget")
    parser.add_argument("--shapes", type=int, default=9, help="dit: so many of the recipe's shapes; each compiles for "
                        "20 seconds")
    parser.add_argument("--steps", type=int, default=0, help="budget in steps instead: the same result every time")
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on with a piece that was killed, from --state")
    parser.add_argument("--refine", action="store_true", help="a new piece from the weights in --models")
    parser.add_argument("--decoder-only", action="store_true", help="with vae --refine: the latents stay as they are")
    parser.add_argument("--coded", action="store_true", help="with --decoder-only: latents as coded noise has them")
    parser.add_argument("--spread", type=float, help="vae, latents: how much weaker the transformer sees "
                        "weak channels (default: 0.35 for video, 0.45 for image)")
    parser.add_argument("--tiny", action="store_true", help="smallest batches: a dry run")
    args = parser.parse_args()
    if args.decoder_only and not (args.refine and args.step == "vae"):
        parser.error("--decoder-only goes on from a trained VAE: use it with the step vae and --refine")
    if args.coded and not args.decoder_only:
        parser.error("--coded trains the decoder alone: use it with --decoder-only")
    if args.step in ("prepare", "card") and not args.media:
        parser.error(f"the step {args.step} needs --media")
    return args


def main() -> None:
    """Runs one step; prints what went wrong in one line."""
    args = parse()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if args.step == "prepare":
        pack.prepare(args.media, args.pack, args.limit)
    elif args.step == "card":
        from . import card

        measured = card.measure(args.models, args.media, args.pack, args.state / "measured.json", args.device)
        card.write(args.models, args.media, measured)
    elif args.step == "unpack":
        parts.unpack(args.models, args.out)
    elif args.step == "latents":
        media = bank.Bank(args.pack, args.device, clips=args.family == "video")
        model = parts.load_part(parts.vae_class(args.family), args.models, args.family, "vae").to(args.device)
        logging.info("latents %s: %s", args.family, save_measured(args, model, media))
    else:
        train(args)


def train(args: argparse.Namespace) -> None:
    """The steps vae, dit and both; what the card tells goes to run-STEP-FAMILY.json."""
    rank, _, device = loop.join_processes(args.device)
    media = bank.Bank(args.pack, device, clips=args.family == "video")
    for step in ("vae", "dit") if args.step == "both" else (args.step,):
        summary = train_vae(args, device, media) if step == "vae" else train_dit(args, rank, device, media)
        if rank == 0:
            facts = {"seed": args.seed, "refined": args.refine, **summary}
            write_json(args.out / f"run-{step}-{args.family}.json", facts)
            logging.info("%s %s: %s", step, args.family, facts)
        args.models, args.seconds = args.out, args.then  # of a transformer that follows its VAE


if __name__ == "__main__":
    try:
        main()
    except VovError as error:
        sys.exit(f"pretraining: {error}")
