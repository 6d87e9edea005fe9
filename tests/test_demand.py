"""Claims about what a file may ask for: bounded before a model is loaded, and raised by DECODE_LIMIT alone."""

import dataclasses
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.test_golden import GOLDEN
from vov import VovError, bitstream, media
from vov.bitstream import Item
from vov.commands import export
from vov.commands.add_noise import AddNoisePictures, AddNoiseVideo, add_noise_pictures, add_noise_video
from vov.commands.decode import DecodePictures, DecodeVideo, decode_pictures, decode_video
from vov.commands.edit import EditVideo, edit_video
from vov.commands.evaluate import evaluate_clips
from vov.decoding.limits import MAX_STEPS, check_file
from vov.evaluation.pairs import EvalConfig
from vov.runtime.files import REPO


def asking(name, folder, **fields):
    """A golden file whose header asks for something else."""
    stream = bitstream.read(GOLDEN / f"{name}.vov")
    path = folder / f"{name}.vov"
    bitstream.write(path, dataclasses.replace(stream, header=dataclasses.replace(stream.header, **fields)))
    return path


HOSTILE = [
    ("video_theta", dict(width=16384, height=16384, num_frames=4), "4 frames of 16384×16384 in 1 sampler steps", 4),
    ("video_theta", dict(width=4096, height=4096, num_frames=61), "61 frames of 4096×4096", 4),
    ("video_theta", dict(decode_steps=10000), "10000 sampler steps: 10 times what is usual at most", 10),
    ("video_theta", dict(width=1920, height=1088, num_frames=81, decode_steps=1000), "in 1000 sampler steps", 6),
    ("album_theta", dict(width=8192, height=8192), "1 frames of 8192×8192 in 1 sampler steps, 2 times", 4),
    ("image_noise", dict(width=16384, height=16384), "16 times what is usual", 16),
]


@pytest.mark.parametrize(("name", "fields", "said", "limit"), HOSTILE)
def test_a_header_that_asks_for_too_much_is_refused_before_a_model_is_loaded(name, fields, said, limit, tmp_path):
    path, video = asking(name, tmp_path, **fields), name.startswith("video")
    command, kind = (decode_video, DecodeVideo) if video else (decode_pictures, DecodePictures)
    settings = kind(bitstream=str(path), output_dir=str(tmp_path / "o"), model_id="no such model")
    start = time.process_time()
    with pytest.raises(VovError, match=said) as caught:
        command(settings)
    assert time.process_time() - start < 1 and "\n" not in str(caught.value) and not (tmp_path / "o").exists()
    assert f"set `decode_limit`={limit} if that is meant" in str(caught.value)
    for enough in (limit, 0):
        with pytest.raises(VovError, match=r"no such model|original size"):  # the next thing that is wrong
            command(dataclasses.replace(settings, decode_limit=enough))


def test_every_command_that_decodes_asks_first(tmp_path):
    video, image = (asking(name, tmp_path, decode_steps=MAX_STEPS + 1) for name in ("video_theta", "image_noise"))
    frames = np.zeros((5, 40, 48, 3), np.uint8)
    media.write_frames(tmp_path / "clip", frames)
    media.write_image(tmp_path / "a.png", frames[0])
    model = dict(model_id="no such model")
    clip, picture = str(tmp_path / "clip"), str(tmp_path / "a.png")
    calls = [lambda: edit_video(EditVideo(weights=str(video), caption="x", **model)),
             lambda: add_noise_video(AddNoiseVideo(bitstream=str(video), original_frames_dir=clip, **model)),
             lambda: add_noise_pictures(AddNoisePictures(bitstream=str(image), original=picture, **model)),
             lambda: evaluate_clips(EvalConfig(real_dir=clip, fake_dir=str(video), out_dir=str(tmp_path / "e"),
                                               **model))]
    for call in calls:
        with pytest.raises(VovError, match=r"1001 sampler steps.*`decode_limit`=2"):
            call()
    # What would not decode is not encoded either.
    with pytest.raises(VovError, match=r"2000 sampler steps.*`decode_limit`=2"):
        add_noise_video(AddNoiseVideo(bitstream=str(GOLDEN / "video_theta.vov"), steps=2000, original_frames_dir=clip,
                                      output=str(tmp_path / "s.vov"), **model))
    assert not (tmp_path / "s.vov").exists()


def test_what_is_in_use_is_allowed():
    theta = bitstream.read(GOLDEN / "video_theta.vov")
    album = bitstream.read(GOLDEN / "album_theta.vov")
    for width, height, frames, steps in ((832, 480, 81, 50), (1280, 720, 81, 50), (1920, 1088, 121, 50)):
        header = dataclasses.replace(theta.header, width=width, height=height, num_frames=frames, decode_steps=steps)
        check_file(dataclasses.replace(theta, header=header), "x")
    header = dataclasses.replace(album.header, width=512, height=512, decode_steps=50)
    many = tuple(Item("a", 512, 512, f"{number}.png") for number in range(1000))
    check_file(dataclasses.replace(album, header=header, items=many), "x")


def test_a_video_of_many_scenes_is_not_too_much():
    sequence = bitstream.read(GOLDEN / "video_sequence.vov")
    header = dataclasses.replace(sequence.header, width=1280, height=720, num_frames=81)
    items = tuple(Item("", 1280, 720) for _ in range(1000))  # shown chunk by chunk
    check_file(dataclasses.replace(sequence, header=header, items=items), "x")


def test_a_video_of_many_chunks_has_its_noise_already_and_no_single_theta_to_export(tmp_path):
    path = str(GOLDEN / "video_sequence.vov")
    for call, said in (
            (lambda: add_noise_video(AddNoiseVideo(bitstream=path, original_frames_dir=path)),
             "is a video of 4 chunks by video/encode.sh, .*; code it anew with TARGET_BYTES"),
            (lambda: export.main(export.Export(input=path, output=str(tmp_path / "x.safetensors"))),
             "nothing to export; fit the clip")):
        with pytest.raises(VovError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("asked", "said"), [
    ({"rank": 7}, r"`rank`=7, but .*video_theta\.vov has \d; leave it unset"),
    ({}, "`original`=.*clip: 48×41, but the file was made from 48×40")])
def test_what_contradicts_the_file_that_gets_noise_is_named_by_its_setting(asked, said, tmp_path):
    media.write_frames(tmp_path / "clip", np.zeros((5, 41, 48, 3), np.uint8))
    with pytest.raises(VovError, match=said):
        add_noise_video(AddNoiseVideo(bitstream=str(GOLDEN / "video_theta.vov"), model_id="no such model",
                                      original_frames_dir=str(tmp_path / "clip"), **asked))


ENTRIES = [f"vov.commands.{name}" for name in ("collection", "dataset", "export")] + [
    f"{tree}.{name}" for tree in ("image", "video") for name in (
        "edit", "encode", "evaluate", "reconstruct", "scale", "train")]


def test_no_entry_imports_torch_before_it_listens_to_signals():
    code = "import sys, importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n" \
           "    assert 'torch' not in sys.modules, name"
    done = subprocess.run([sys.executable, "-c", code, *ENTRIES], cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
