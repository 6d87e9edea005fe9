"""Which run a checkpoint belongs to: a fit goes on only with one of equal identity."""

from __future__ import annotations

import logging
from pathlib import Path

from vov import VovError
from vov.fitting.checkpoint import CURE, Checkpoint
from vov.fitting.settings import FitConfig
from vov.runtime.files import content_hash

log = logging.getLogger(__name__)
MEANING = {"content": "the clip or pictures", "captions": "the caption", "start": "the checkpoint it starts from",
           "model": "the model", "precision": "`dtype` or `quantize`"}


def same_run(found: Checkpoint, ours: dict, settings: FitConfig, path: Path) -> bool:
    """Whether to go on with a checkpoint; False when OVERWRITE lets another run be replaced.

    Args:
        ours: `Fit.identity` of the run at hand.
    Raises:
        VovError: it is of another run; the line names what differs.
    """
    theirs = found.metadata.get("identity")
    theirs = theirs if isinstance(theirs, dict) else {}
    if found.metadata.get("identity_hash") != identity_hash(ours):
        told = said if isinstance(said := theirs.get("settings"), dict) else {}
        changed = [f"`{name}`" for name, value in ours["settings"].items() if told.get(name) != value]
        changed += [MEANING[name] for name in MEANING if name in ours and theirs.get(name) != ours[name]]
        reason = ", ".join(changed[:6]) if theirs and changed else "an earlier version of this program"
        if settings.overwrite:
            log.info("%s: of another run (other: %s); `overwrite`=1: starting over", path, reason)
            return False
        raise VovError(f"{path} belongs to another run (other: {reason}); use another `out_dir`, or `overwrite`=1 to "
                       "start over")
    if found.step > settings.train_steps:
        raise VovError(f"{path}: metadata: step: is {found.step}, beyond `train_steps`; {CURE}")
    return True


def identity_hash(identity: dict) -> str:
    """12 hexadecimal digits that name a run by `Fit.identity`."""
    return content_hash(repr(sorted((k, sorted(v.items()) if isinstance(v, dict) else v)
                                    for k, v in identity.items())))[:12]
