"""Pretraining of models/nano-video and models/nano-image. See pretrain.sh for variables and order.

prepare  pack the media folder          vae   train one VAE and measure its latents
dit      train one transformer          card  measure both models and write their cards
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


def train_vae(args, device: str) -> dict:
    """One piece of a VAE's training; the latents' basis and statistics follow, unless only the decoder is trained."""
    media = bank.Bank(args.pack, device, clips=args.family == "video")
    torch.manual_seed(args.seed)
    model = (parts.load_part(parts.vae_class(args.family), args.models, args.family, "vae") if args.refine
             else parts.new_vae(args.family))
    cfg = vae.recipe(args.family, args.refine, args.decoder_only, args.tiny)
    budget, state = loop.Budget(args.seconds, args.steps), args.state / f"vae-{args.family}.pt"
    summary = vae.train(model, media, budget, cfg, args.seed, state, args.resume)
    if args.decoder_only:
        parts.save_vae(args.family, model, model.config.latents_mean, model.config.latents_std[0], args.out)
        return summary
    vae.equalise(model, media, args.family, args.seed, args.tiny)
    latents = vae.measure_latents(model, media, args.family, args.seed, args.tiny)
    parts.save_vae(args.family, model, latents["mean"], latents["std"], args.out)
    return {**summary, "latents_std": latents["std"], "channel_std": [round(s, 3) for s in latents["own"]]}


def train_dit(args, rank: int, device: str) -> dict:
    """One piece of a transformer's training on the finished VAE."""
    media = bank.Bank(args.pack, device, clips=args.family == "video")
    frozen = parts.load_part(parts.vae_class(args.family), args.models, args.family, "vae")
    torch.manual_seed(args.seed)
    cfg = dit.RECIPES[args.family] | (dit.REFINE if args.refine else {}) | (dit.TINY[args.family] if args.tiny else {})
    model = (parts.load_part(parts.transformer_class(args.family), args.models, args.family, "transformer")
             if args.refine else parts.new_transformer(args.family))
    text = parts.text_stack(args.family, args.models, media.captions)
    piece = dit.Piece(loop.Budget(args.seconds, args.steps), args.seed, rank, args.state / f"dit-{args.family}.pt",
                      args.resume)
    summary = dit.train(args.family, model, frozen, text, media, cfg, piece)
    if rank == 0:
        parts.save_pipeline(args.family, model.cpu(), text, args.out)
    return summary


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("python -m models.pretraining", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=["prepare", "vae", "dit", "card"])
    parser.add_argument("--media", type=Path, help="the media folder (prepare), the test media (card)")
    parser.add_argument("--pack", type=Path, default=Path("runs/nano-pack"), help="where prepare puts the packed media")
    parser.add_argument("--limit", type=int, default=0, help="prepare: so many items of each source (a dry run)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="models to go on from and to measure")
    parser.add_argument("--out", type=Path, default=Path("models"), help="where trained parts go")
    parser.add_argument("--state", type=Path, default=Path("runs/nano-state"), help="where running pieces keep theirs")
    parser.add_argument("--family", choices=["video", "image"], default="video")
    parser.add_argument("--seconds", type=float, default=480, help="wall-clock budget of this piece")
    parser.add_argument("--steps", type=int, default=0, help="budget in steps instead: the same result every time")
    parser.add_argument("--seed", type=int, default=20261125)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--resume", action="store_true", help="go on with a piece that was killed, from --state")
    parser.add_argument("--refine", action="store_true", help="a new piece from the weights in --models")
    parser.add_argument("--decoder-only", action="store_true", help="with vae --refine: the latents stay as they are")
    parser.add_argument("--tiny", action="store_true", help="smallest batches: a dry run")
    args = parser.parse_args()
    if args.decoder_only and not (args.refine and args.step == "vae"):
        parser.error("--decoder-only goes on from a trained VAE: use it with the step vae and --refine")
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
    else:
        rank, _, device = loop.join_processes(args.device)
        summary = train_vae(args, device) if args.step == "vae" else train_dit(args, rank, device)
        if rank == 0:
            facts = {"seed": args.seed, "refined": args.refine, **summary}
            write_json(args.out / f"run-{args.step}-{args.family}.json", facts)
            logging.info("%s %s: %s", args.step, args.family, facts)


if __name__ == "__main__":
    try:
        main()
    except VovError as error:
        sys.exit(f"pretraining: {error}")
