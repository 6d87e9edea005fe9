"""`scale`: coded noise for a fitted file (the paper's inference-time scaling); and what `encode` of pictures shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vov import VovError
from vov.commands.options import REFERENCE_CLIP, QwenOptions, WanOptions, named
from vov.config import option
from vov.model.registry import backbone_class
from vov.noise.options import ScalingConfig

if TYPE_CHECKING:  # --help needs no torch
    from vov.bitstream import Bitstream
    from vov.media.original import Original
    from vov.model.backbone import Backbone
    from vov.runtime.resumable import Outputs


@dataclass(frozen=True)
class AddNoiseVideo(ScalingConfig, WanOptions):
    """A .vov file, the original, and where the result goes; RANK and LAST_K are the file's own."""

    name: str = option("", "name of the clip: first argument of sample.sh; default: that of ORIGINAL, "
                       f"without one {REFERENCE_CLIP}")
    bitstream: str = option("", "the fitted .vov file; default WEIGHTS_DIR/NAME.vov")
    weights_dir: str = option("", "folder of a fit, as left by run_two_stage.sh; default checkpoints/NAME/two_stage")
    original_frames_dir: str = option("", "the original clip: a video or a folder of frames (required)",
                                      name="ORIGINAL", alias=("ORIGINAL_FRAMES_DIR", "FRAMES_DIR", "INPUT"))
    output: str = option("", "the new file, in a folder of its own; default scaled/NAME/NAME.vov. Frames, a video and "
                         "result.json are put beside it")
    rank: int = option(0, "the file knows it; a value that contradicts the file is an error", minimum=0)
    last_k: int = option(0, "likewise", minimum=0)
    overwrite: bool = option(False, "replace existing outputs")


@dataclass(frozen=True)
class AddNoisePictures(ScalingConfig, QwenOptions):
    """A .vov file, its originals, and where the result goes."""

    bitstream: str = option("", "the fitted .vov file (required)")
    original: str = option("", "the original picture (required for a file of one picture)", alias=("IMAGE",))
    data_root: str = option("./data", "for an album: what the names of its pictures are relative to")
    output: str = option("", "the new file, in a folder of its own; default scaled/NAME/NAME.vov, NAME being that of "
                         "BITSTREAM. What it decodes to and result.json are put beside it")
    overwrite: bool = option(False, "replace existing outputs")


def add_noise_video(settings: AddNoiseVideo) -> None:
    """Chooses noise, writes the file, decodes it from its bytes alone and measures."""
    from vov import media
    from vov.decoding.decode import read
    from vov.media.original import Original
    from vov.media.roi import with_region

    name = named(settings.name, settings.original_frames_dir)
    folder = Path(settings.weights_dir or f"checkpoints/{name}/two_stage")
    path = Path(settings.bitstream or folder / f"{name}.vov")
    if not path.is_file():
        raise VovError(f"{path}: no such file; set BITSTREAM, or WEIGHTS_DIR to the folder of a finished stage 2 "
                       "(a checkpoint becomes a file with TRAIN_STEPS=1 INIT_LORA_PATH=… stage2_train.sh)")
    if not settings.original_frames_dir:
        raise VovError("ORIGINAL is not set; give the original clip that the noise is chosen for")
    stream = read(path, "video", settings.decode_limit)
    refuse_video(stream)
    header = stream.header
    for key in ("rank", "last_k"):
        if getattr(settings, key) not in (0, getattr(header, key)):
            raise VovError(f"`{key}`={getattr(settings, key)}, but {path} has {getattr(header, key)}; "
                           "leave it unset")
    clip = media.read_clip(settings.original_frames_dir, header.num_frames, fps=header.fps)
    media.refuse_other_size(settings.original_frames_dir, clip.frames, stream.items[0].original_width,
                            stream.items[0].original_height, "original")
    originals = with_region([Original(clip.frames, header.fps, stream.items[0].caption, name)], settings)
    _run(stream, path, originals, settings, Path(settings.output or f"scaled/{name}/{name}.vov"))


def add_noise_pictures(settings: AddNoisePictures) -> None:
    """The same for pictures."""
    from vov import media
    from vov.decoding.decode import read
    from vov.media.original import Original
    from vov.media.roi import with_region

    if not settings.bitstream:
        raise VovError("BITSTREAM is not set; give a .vov file, as train_multi.sh leaves it")
    path = Path(settings.bitstream)
    stream = read(path, "image", settings.decode_limit)
    if len(stream.items) == 1 and not settings.original:
        raise VovError("ORIGINAL is not set; give the picture that the noise is chosen for")
    files = [Path(settings.original)] if len(stream.items) == 1 else [
        Path(settings.data_root) / item.name for item in stream.items]
    originals = [Original(media.read_image(file)[None], 0.0, item.caption, item.name)
                 for file, item in zip(files, stream.items, strict=True)]
    for file, original, item in zip(files, originals, stream.items, strict=True):
        media.refuse_other_size(str(file), original.frames, item.original_width, item.original_height,
                                "original" if len(files) == 1 else "data_root")
    _run(stream, path, with_region(originals, settings), settings,
         Path(settings.output or f"scaled/{path.stem}/{path.stem}.vov"), files)


def refuse_video(stream: Bitstream) -> None:
    """Raises VovError for a file of video/encode.sh, which has its noise already."""
    if stream.sequence:
        raise VovError(f"{stream.source}: is a video of {len(stream.sequence.chunks)} chunks by video/encode.sh, whose "
                       "noise is chosen as it is coded; code it anew with TARGET_BYTES to give it more")


def _run(stream: Bitstream, path: Path, originals: Sequence[Original], settings: Any, output: Path,
         inputs: Sequence[Path] = ()) -> None:
    from vov.commands.run_report import table

    with outputs_of(path, stream, originals, settings, output, inputs=inputs) as outputs:
        result = code_items(stream, lambda: settings.load(backbone_class(stream.header.tree), stream.header, str(path)),
                            originals, settings, output, outputs)
    print(table(result))
    print(f"encoder    {result['encoder_psnr']:.2f} dB (what it saw before writing)")


def outputs_of(file: Path | None, stream: Bitstream | None, originals: Sequence[Original], settings: Any, path: Path,
               *parts: object, inputs: Sequence[Path] = ()) -> Outputs:
    """What `code_items` writes: the file, what it decodes to, result.json.

    Args:
        file, stream: that noise is added to; None where there is none yet.
        settings: a `ScalingConfig` with model options.
        path: of the new file.
        parts: further settings that shape it.
        inputs: what was read that no variable names.
    """
    from vov.commands.run_report import NAME, made_from, settings_of
    from vov.config import read_by
    from vov.decoding import collection
    from vov.runtime.files import content_hash, refuse_overlap
    from vov.runtime.resumable import Outputs

    several, moving = len(originals) > 1, len(originals[0].frames) > 1
    decoded = [path.with_suffix("")] if several or moving else [path.with_suffix(".png")]
    decoded += [path.with_suffix(".mp4")] if moving else []
    variable = "output" if hasattr(settings, "output") else "out_dir"
    written = [path, *decoded, path.parent / NAME]
    refuse_overlap(written, [*inputs, *([file] if file else []), *read_by(settings)], variable)
    content = [(one.frames.shape, one.caption, one.name if several else "", content_hash(one.frames.tobytes()),
                *([one.region.hash] if one.region else ())) for one in originals]
    shared = [collection.remember(settings.collection)] if settings.collection else []
    identity = made_from(settings, stream.header.dtype if stream else "", file, content,
                         settings_of(settings, ScalingConfig), *parts, *shared)
    return Outputs(path.name, written, identity, settings.overwrite, variable)


def code_items(stream: Bitstream, load: Callable[[], Backbone], originals: Sequence[Original], settings: Any,
               path: Path, outputs: Outputs) -> dict:
    """Chooses noise, writes `path`, decodes it from the bytes alone, measures.

    Args:
        stream: the file without noise.
        load: gives the model, if it is needed: outputs that are there are kept.
        settings: a `ScalingConfig` with model options.
    Returns:
        `run_report.report`'s result, with `encoder_psnr`: that of the frames the encoder saw, before any file.
    """
    import json

    from vov.commands.run_report import NAME, Clock
    from vov.commands.saving import finish
    from vov.decoding import collection
    from vov.decoding.decode import read
    from vov.decoding.limits import check_work
    from vov.noise import rate_control

    if settings.collection:
        stream = replace(stream, collection=collection.remember(settings.collection))
    if outputs.complete:
        return json.loads((path.parent / NAME).read_bytes())
    asked = replace(stream.header, sigmas=(), decode_steps=settings.steps) if settings.steps else stream.header
    check_work(asked, len(stream.items), str(path), settings.decode_limit)
    rate_control.asked(settings)
    backbone, clock = load(), Clock()
    if outputs.has(path):
        clock.seconds["choose"] = outputs.notes["choose"]
    else:
        _search(stream, backbone, originals, settings, path, (outputs, clock))
    return finish(outputs, path, read(path, limit=0), backbone, [one.frames for one in originals], clock,
                  settings.collection, encoder_psnr=outputs.notes["encoder_psnr"],
                  scaling={k: v for k, v in vars(settings).items() if k in ScalingConfig.__dataclass_fields__})


def _search(stream: Bitstream, backbone: Backbone, originals: Sequence[Original], settings: Any, path: Path,
            noted: tuple) -> None:
    """Searches, and writes the file; what a stopped search had chosen lies beside it."""
    from tqdm import tqdm

    from vov import bitstream
    from vov.noise import rate_control
    from vov.noise.items import RULES, NoiseRun, add_noise
    from vov.noise.resume import ResumableSearch

    (outputs, clock), states = noted, []

    def run(asked: ScalingConfig, spend: int = 0) -> tuple:
        name = f"{asked.scaling_bytes}-{spend}" if spend else f"{asked.scaling_bytes}"
        place = outputs.record.with_name(f".search-{outputs.mark}-{name}.safetensors")
        states.append(ResumableSearch(place, f"{outputs.identity} {RULES} {name}", backbone.device))
        how = NoiseRun(states[-1], bar.update, spend, settings.collection)
        return add_noise(stream, backbone, originals, asked, how)

    with tqdm(unit="step", desc=path.stem, disable=None) as bar:
        try:
            made = clock.time("choose", rate_control.choose, settings, stream, originals, backbone, run)
        except rate_control.OutOfReach:  # nothing of the search is worth keeping
            for one in states:
                one.remove()
            raise
    outputs.notes = {"encoder_psnr": rate_control.quality(made.frames, stream, originals),
                     "choose": clock.seconds["choose"]}
    outputs.make(path, lambda: bitstream.write(path, made.stream))
    for one in states:
        one.remove()
