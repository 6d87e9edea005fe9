"""Every command and the class of its variables. `python -m vov.commands.catalogue` writes vov/config/variables.tsv."""

from __future__ import annotations

from vov.commands.add_noise import AddNoisePictures, AddNoiseVideo
from vov.commands.collection import CollectionFit
from vov.commands.decode import DecodePictures, DecodeVideo
from vov.commands.edit import EditPicture, EditVideo, MergePictures, MergeVideos
from vov.commands.encode import EncodePictures, EncodeVideo
from vov.commands.export import Export
from vov.commands.fetch import FetchConfig
from vov.commands.options import ImageFit, VideoFit
from vov.config import environment_names, fields_of, unused
from vov.config.spelling import TABLE
from vov.dataset.options import SetOptions
from vov.evaluation.pairs import EvalConfig
from vov.runtime.files import write_bytes

# Those that are named first as the ones that know a variable come first.
COMMANDS = {
    "video/encode.sh": EncodeVideo,
    "image/encode.sh": EncodePictures,
    "video/train/run_two_stage.sh": VideoFit,
    "video/train/stage1_train.sh": VideoFit,
    "video/train/stage2_train.sh": VideoFit,
    "image/train_multi.sh": ImageFit,
    "video/reconstruct/reconstruct.sh": DecodeVideo,
    "image/reconstruct_multi.sh": DecodePictures,
    "video/scaling/sample.sh": AddNoiseVideo,
    "image/scale.sh": AddNoisePictures,
    "video/edit/edit_caption.sh": EditVideo,
    "video/edit/edit_merge.sh": MergeVideos,
    "image/edit_caption.sh": EditPicture,
    "image/edit_merge.sh": MergePictures,
    "video/eval/eval.sh": EvalConfig,
    "image/eval.sh": EvalConfig,
    "scripts/encode_dataset.sh": SetOptions,
    "scripts/fit_collection.sh": CollectionFit,
    "scripts/export.sh": Export,
    "scripts/fetch_models.sh": FetchConfig,
}


def text() -> str:
    """A line for every variable: its name, its key in presets (none for an alias), the commands that know it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for script, cls in COMMANDS.items():
        for key, field in fields_of(cls).items():
            if key in unused(cls):
                continue
            for name in environment_names(field):
                named, scripts = found.get(name, ("", []))
                found[name] = name.lower() if name == environment_names(field)[0] else named, [*scripts, script]
    rows = [f"{name}\t{key}\t{' '.join(scripts)}\n" for name, (key, scripts) in sorted(found.items())]
    return "variable\tkey\tcommands\n" + "".join(rows)


if __name__ == "__main__":
    write_bytes(TABLE, text().encode())
