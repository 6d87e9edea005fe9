"""What the READMEs say can be done: commands run, paths exist, variables are known."""

import contextlib
import io
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts import launch
from tests import readme
from tests.test_fit import ball
from vov import media
from vov.files import REPO
from vov.formats import reference

GOLDEN = REPO / "tests" / "golden"

# Blocks that are not run here, and why. A block that is neither here nor in RUN fails the test.
NOT_RUN = {
    "README.md: bash scripts/demo.sh": "installs packages, then takes minutes",
    "video/README.md: NNODES=2 NODE_RANK=0 MASTER_ADDR=10.0.0.1 MASTER_PORT=29500 FRAMES_DIR=clip.mp4 bash "
    "video/train/run_two_stage.sh": "needs two machines; tests/test_launch.py runs two on this one",
    "docs/results/README.md: bash scripts/results.sh quick": "takes 20 minutes; tests/test_results.py runs it on "
    "untrained models",
    "video/eval/README.md: MEDIA=../shared/media MANIFEST=video/eval/paper_manifest.csv BD_ANCHOR=VOV bash "
    "video/eval/eval.sh": "needs the paper's clips and minutes; test_evaluate.py runs it with --slow",
}
RUN = {
    "README.md: export CONFIG=nano-video",
    "docs/results/README.md: CONFIG=nano-video-noise KEEP=fits/frozen OUT=fits/frozen.jsonl CLIPS=clips/carphone.mp4 "
    "bash scripts/sweep.sh",
    "docs/results/README.md: FITS=fits/frozen/carphone.vov,fits/anchored/carphone.vov ORIGINALS=clips/carphone.mp4 "
    "RESULTS=results \\",
    'image/README.md: IMAGE=cat.png CAPTION="a tabby cat, close up" OUT_DIR=runs/cat bash image/train_multi.sh',
    "image/README.md: BITSTREAM=runs/album/album.vov OUTPUT_DIR=decoded bash image/reconstruct_multi.sh",
    'image/README.md: IMAGE=cat.png CAPTION="a cat on a sofa" CONFIG=nano-image-noise OUT_DIR=runs/cat bash '
    "image/train_multi.sh",
    "image/README.md: DATA_ROOT=kodak bash scripts/kodak.sh",
    'image/README.md: WEIGHTS=runs/cat/cat.vov CAPTION="many fish swimming in a blue aquarium" ORIGINAL=cat.png '
    "OUTPUT=edit.png bash image/edit_caption.sh",
    'video/README.md: FRAMES_DIR=clip.mp4 CAPTION="a dog runs on a beach" NAME=dog OUT_DIR=runs/dog bash '
    "video/train/run_two_stage.sh",
    "video/README.md: CONFIG=nano-video FRAMES_DIR=film.mp4 OUT_DIR=runs/film bash video/encode.sh",
    "video/README.md: BITSTREAM=runs/dog/dog.vov OUTPUT_DIR=decoded bash video/reconstruct/reconstruct.sh",
    'video/README.md: export FRAMES_DIR=clip.mp4 NAME=dog CAPTION="a dog runs on a beach"',
    'video/README.md: WEIGHTS=runs/dog/dog.vov CAPTION="a cat runs on a beach" ORIGINAL_FRAMES_DIR=clip.mp4 '
    "OUTPUT_VIDEO=cat.mp4 bash video/edit/edit_caption.sh",
    "video/eval/README.md: REAL_DIR=frames/ FAKE_DIR=recon_out/HoneyBee BITSTREAM=HoneyBee.vov ANCHORS=video bash "
    "video/eval/eval.sh",
}
# Beside what a block sets itself: untrained two-layer models, 32×32, a few steps.
TINY = {"WIDTH": "32", "HEIGHT": "32", "NUM_FRAMES": "5", "LAST_K": "2", "THETA_LENGTH": "300", "RANK": "1",
        "LORA_PRESET": "qkvo", "TRAIN_STEPS": "2", "BATCH_SIZE": "1", "ACCUM_STEP": "1", "PREVIEW_EVERY": "0",
        "DEVICE": "cpu", "NUM_GPUS": "1", "END": "1", "ANCHOR_RATES": "1", "ANCHOR_BYTES": "400", "EXPLICIT": "400",
        "FRAME_STEP": "5"}
# Numbers that a block sets itself and that would take long.
SMALLER = (("train_steps=500", "train_steps=2"), ("train_steps=300", "train_steps=2"),
           ("decode_steps=50", "decode_steps=2"), ("STEPS=100", "STEPS=6"), ("sample.sh dog 100", "sample.sh dog 6"),
           ("atoms:100:2100:", "atoms:6:60:"), ("atoms:100:500:", "atoms:6:60:"), ("atoms:100:1000:", "atoms:6:90:"),
           ("SCALING_BYTES=2000", "SCALING_BYTES=60"), ("bash video/encode", "SCORE=pixel STEPS=4 bash video/encode"),
           ("ANCHORS=video", "ANCHORS=x264,svtav1"))  # x265 crashes on 48×40 pixels
# What blocks take from their reader, or from an earlier block, unless they make it themselves.
GIVEN = {"runs/dog/dog.vov": "video_theta.vov", "runs/cat/cat.vov": "image_noise.vov",
         "runs/album/album.vov": "album_theta.vov", "HoneyBee.vov": "video_theta.vov", "a.vov": "{one}.vov",
         "b.vov": "{one}.vov", "fits/frozen/carphone.vov": "video_theta.vov",
         "fits/anchored/carphone.vov": "video_noise.vov"}


def give(folder: Path, block: readme.Block) -> None:
    """Puts the files that a block reads into `folder`."""
    frames = ball(5, 48, 40)  # what the golden files were made from
    one = "image_noise" if block.readme.parts[0] == "image" else "video_theta"  # a file of one picture or clip
    for name, golden in GIVEN.items():
        if re.search(rf"(?<![\w/]){re.escape(name)}", block.text) and f"OUT_DIR={Path(name).parent} " not in block.text:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(GOLDEN / golden.format(one=one), folder / name)
    for clip in ("clip.mp4", "film.mp4", "clips/carphone.mp4"):
        media.write_video(folder / clip, frames, 8.0)
    for frame_folder in ("frames", "recon_out/HoneyBee"):
        media.write_frames(folder / frame_folder, frames)
    media.write_image(folder / "cat.png", frames[0])
    for number in range(1, 25, 2):
        media.write_image(folder / "kodak" / f"kodim{number:02d}.png", np.tile(frames[0], (2, 2, 1)))
    for number in range(12):
        media.write_image(folder / "photos" / f"{number}.png", frames[number % 5])
    (folder / "album.txt").write_text("".join(f"{n}.png|picture number {n} of a ball\n" for n in range(12)))
    if "checkpoint.safetensors" in block.text:
        reference.save_reference(folder / "checkpoint.safetensors", torch.linspace(-0.3, 0.3, 300), 0.01)


def test_every_block_is_run_or_listed_with_a_reason():
    names = {block.name for block in readme.blocks()}
    assert names == RUN | set(NOT_RUN), f"new or changed: {names ^ (RUN | set(NOT_RUN))}"


@pytest.mark.parametrize("block", [block for block in readme.blocks() if block.name not in NOT_RUN],
                         ids=lambda block: block.name[:70])
def test_the_commands_of_the_readmes_run(block, tiny_wan, tiny_qwen, tmp_path, monkeypatch, capfd):
    environ = {name: os.environ[name] for name in ("PATH", "HOME", "VOV_CACHE") if name in os.environ}
    text = block.text
    for long, short in SMALLER:
        text = text.replace(long, short)
    models = {"WAN_MODEL_ID": str(tiny_wan), "QWEN_MODEL_ID": str(tiny_qwen), "CACHE_DIR": str(tiny_wan.parent)}
    give(tmp_path, block)
    calls, _ = readme.record(text, tmp_path, environ | TINY | models)
    assert len(calls) == len(re.findall(r"\bbash \S+\.sh|^\.venv/bin/python", text, re.M))
    monkeypatch.chdir(tmp_path)
    for arguments, given in calls:
        readme.replay(arguments, given, monkeypatch)


def tokens(readme_path: Path, pattern: str) -> set[str]:
    return {match for text in readme.code(readme_path) for match in re.findall(pattern, text)}


@pytest.mark.parametrize("path", readme.READMES, ids=str)
def test_every_file_that_a_readme_names_exists(path):
    text = (REPO / path).read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)\s#]+)[^)]*\)", text) if "://" not in link}
    missing = {link for link in links if not (REPO / path.parent / link).exists()}
    named = tokens(path, r"(?<![\w/.])(?:vov|video|image|scripts|configs|models|tests|docs)/[\w./-]*[\w/]")
    missing |= {name for name in named  # with or without a suffix, from here or from the root
                if not any([*place.parent.glob(place.name), *place.parent.glob(f"{place.name}.*")]
                           for place in (REPO / name, REPO / path.parent / name))}
    modules = tokens(path, r"-m ((?:vov|video|image|scripts)[\w.]*)")
    missing |= {name for name in modules if not any((REPO / (name.replace(".", "/") + end)).is_file()
                                                    for end in (".py", "/__main__.py"))}
    assert not missing


def test_anchors_of_links_between_readmes_exist():
    for path in readme.READMES:
        for link, anchor in re.findall(r"\]\(([^)\s#]*)#([^)]+)\)", (REPO / path).read_text(encoding="utf-8")):
            target = (REPO / path.parent / link) if link else REPO / path
            heads = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.M)
            slugs = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
            assert anchor in slugs, f"{path}: {link}#{anchor}"


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    """Every variable that the --help of some script, or of a module that a README runs, names."""
    scripts = sorted(path.relative_to(REPO) for tree in ("video", "image", "scripts", "models")
                     for path in (REPO / tree).rglob("*.sh") if path.name != "common.sh")
    modules = {name for path in readme.READMES for name in tokens(path, r"-m (scripts[\w.]*)")}
    asked = [f"bash {script} --help" for script in scripts]
    asked += [f"$VOV_PYTHON -m {name} --help" for name in sorted(modules)
              if "cli.run(" in (REPO / (name.replace(".", "/") + ".py")).read_text()]
    calls, text = readme.record("\n".join(asked), tmp_path_factory.mktemp("help"), {"PATH": os.environ["PATH"]})
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as told, contextlib.redirect_stdout(told):
        for arguments, environ in calls:
            readme.replay(arguments, environ, patch)
            text += launch.help_text(environ)
        text += told.getvalue()
    return set(re.findall(r"\b[A-Z][A-Z0-9_]+\b", text))


@pytest.mark.parametrize("path", readme.READMES, ids=str)
def test_every_variable_that_a_readme_names_is_in_some_help(path, known):
    named = tokens(path, r"(?<![\w.-])([A-Z][A-Z0-9_]{2,})=") | tokens(path, r"^([A-Z][A-Z0-9]*_[A-Z0-9_]+)$")
    unknown = {name for name in named if re.sub(r"^STAGE[12]_", "", name) not in known}
    assert not unknown
