"""Writes vov/variables.tsv, every variable of every command: `python -m scripts.variables`."""

from __future__ import annotations

import image.edit
import image.encode
import image.evaluate
import image.reconstruct
import image.scale
import image.train
import scripts.dataset_settings
import scripts.export
import scripts.fit_collection
import video.edit
import video.encode
import video.evaluate
import video.reconstruct
import video.scale
import video.train
from vov.config import environment_names, variables
from vov.evaluation.fetch import FetchConfig
from vov.files import write_bytes
from vov.spelling import TABLE

# Those that are named first as the ones that know a variable come first.
COMMANDS = {
    "video/encode.sh": video.encode.Encode,
    "image/encode.sh": image.encode.Encode,
    "video/train/run_two_stage.sh": video.train.VideoFit,
    "video/train/stage1_train.sh": video.train.VideoFit,
    "video/train/stage2_train.sh": video.train.VideoFit,
    "image/train_multi.sh": image.train.ImageFit,
    "video/reconstruct/reconstruct.sh": video.reconstruct.Reconstruct,
    "image/reconstruct_multi.sh": image.reconstruct.Reconstruct,
    "video/scaling/sample.sh": video.scale.Scale,
    "image/scale.sh": image.scale.Scale,
    "video/edit/edit_caption.sh": video.edit.EditCaption,
    "video/edit/edit_merge.sh": video.edit.EditMerge,
    "image/edit_caption.sh": image.edit.EditCaption,
    "image/edit_merge.sh": image.edit.EditMerge,
    "video/eval/eval.sh": video.evaluate.EvalConfig,
    "image/eval.sh": image.evaluate.EvalConfig,
    "scripts/encode_dataset.sh": scripts.dataset_settings.MixedSet,
    "scripts/fit_collection.sh": scripts.fit_collection.CollectionFit,
    "scripts/export.sh": scripts.export.Export,
    "scripts/fetch_models.sh": FetchConfig,
}


def text() -> str:
    """A line for every variable: its name, its key in presets (none for an alias), the commands that know it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for script, cls in COMMANDS.items():
        for key, field in variables(cls).items():
            for name in environment_names(field):
                named, scripts = found.get(name, ("", []))
                found[name] = key if name == key.upper() else named, [*scripts, script]
    rows = [f"{name}\t{key}\t{' '.join(scripts)}\n" for name, (key, scripts) in sorted(found.items())]
    return "variable\tkey\tcommands\n" + "".join(rows)


if __name__ == "__main__":
    write_bytes(TABLE, text().encode())
