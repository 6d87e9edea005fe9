"""A θ that many files share: files name it by its hash, and decode only with it."""

import dataclasses

import numpy as np
import pytest

from vov import VovError, bitstream
from vov.bitstream.container import COLLECTION, frame, unframe
from vov.bitstream.header import header_to_bytes
from vov.commands.encode import EncodeVideo, encode_video
from vov.decoding import collection
from vov.decoding.decode import decode
from vov.editing.edit import edit, load
from vov.editing.settings import EditConfig
from vov.evaluation.evaluate import evaluate
from vov.evaluation.pairs import EvalConfig
from vov.fitting import collection_fit
from vov.fitting.settings import FitConfig
from vov.formats import export
from vov.media import write_image
from vov.media.original import Original
from vov.noise.items import NoiseRun, add_noise, frozen_file
from vov.noise.options import ScalingConfig
from vov.runtime.state import read_state

FIT = FitConfig(width=32, height=32, rank=2, theta_length=32, last_k=2, train_steps=2, lr=0.5, batch_size=2,
                preview_every=0, shift=3.0, decode_steps=3)


def picture(seed):
    return np.random.default_rng(seed).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def backbone(tiny_qwen):
    from vov.model.qwen import QwenBackbone

    return QwenBackbone.load(str(tiny_qwen), "", "cpu", "float32")


@pytest.fixture(scope="module")
def theta(backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("collection")
    shown = [collection_fit.Window(picture(seed), "a thing") for seed in (1, 2, 3)]
    collection_fit.write(folder / "things.vovd", collection_fit.fit(backbone, shown, FIT, "things", folder / "fit"))
    return folder / "things.vovd"


@pytest.fixture(scope="module")
def coded(backbone, theta):
    """(bytes of a file that names the collection, the frames that its encoder saw)."""
    source = Original(picture(9), 0.0, "a thing", "x.png")
    stream = dataclasses.replace(frozen_file(backbone, [source], FIT), collection=collection.read(theta).name)
    made, frames = add_noise(stream, backbone, [source], ScalingConfig(scheme="paper", steps=3),
                             NoiseRun(collections=str(theta.parent)))
    return bitstream.to_bytes(made), frames[0]


def test_a_file_decodes_with_its_collection_beside_it_or_in_a_folder_to_what_the_encoder_saw(backbone, theta, coded,
                                                                                             tmp_path):
    data, seen = coded
    for place in ("beside", "folder"):
        path = tmp_path / place / "x.vov"
        path.parent.mkdir()
        path.write_bytes(data)
        if place == "beside":
            (path.parent / "renamed.vovd").write_bytes(theta.read_bytes())
        (clip,) = decode(path, backbone, collections=str(theta.parent) if place == "folder" else "")
        assert np.array_equal(clip.frames, seen)


def test_edits_and_evaluations_find_the_collection_where_they_are_told(backbone, theta, coded, tiny_qwen, tmp_path):
    path = tmp_path / "x.vov"
    path.write_bytes(coded[0])
    (clip,), where = decode(path, backbone, collections=str(theta.parent)), dict(collection=str(theta.parent))
    asked = EditConfig(caption="a thing", **where)
    for shown in edit(backbone, [load(path, asked, "image")], asked):
        assert np.array_equal(shown, clip.frames)
    write_image(tmp_path / "real.png", clip.frames[0])
    results = evaluate(EvalConfig(real_dir=str(tmp_path / "real.png"), fake_dir=str(path), skip_metrics=True,
                                  model_id=str(tiny_qwen), out_dir=str(tmp_path / "out"), device="cpu",
                                  work_dir=str(tmp_path / "work"), **where), "image")
    assert results["items"][0]["metrics"]["psnr"] == "inf"


def test_the_collection_changes_what_is_decoded_and_leaves_the_model_as_it_was(backbone, theta, coded, tmp_path):
    data, seen = coded
    before = [type(module) for module in backbone.transformer.modules()]
    (tmp_path / "plain.vov").write_bytes(
        bitstream.to_bytes(dataclasses.replace(bitstream.from_bytes(data), collection=b"")))
    (clip,) = decode(tmp_path / "plain.vov", backbone)
    assert not np.array_equal(clip.frames, seen)
    assert [type(module) for module in backbone.transformer.modules()] == before


def test_a_missing_or_changed_collection_is_named_in_one_line(backbone, theta, coded, tmp_path):
    (tmp_path / "x.vov").write_bytes(coded[0])
    changed = dataclasses.replace(collection.read(theta).stream, symbols=np.ones(32, np.int32))
    bitstream.write(tmp_path / "things.vovd", changed)
    with pytest.raises(VovError, match=f"collection {collection.read(theta).name.hex()} is missing.*`collection`"):
        decode(tmp_path / "x.vov", backbone)


def test_a_collection_used_here_is_found_in_the_cache(backbone, theta, coded, tmp_path):
    collection.remember(str(theta))
    (tmp_path / "x.vov").write_bytes(coded[0])
    assert len(decode(tmp_path / "x.vov", backbone)) == 1


def test_the_name_costs_22_bytes_and_survives_the_file(coded):
    stream = bitstream.from_bytes(coded[0])
    plain = bitstream.to_bytes(dataclasses.replace(stream, collection=b""))
    assert len(stream.collection) == 16 and len(coded[0]) - len(plain) == 16 + 6


@pytest.mark.parametrize("size", [0, 15, 17, 1000])
def test_a_name_of_another_length_is_refused(coded, size):
    data = coded[0]
    _, sections = unframe(data, "x")
    stream = bitstream.from_bytes(data)

    with pytest.raises(VovError, match=f"collection: has {size} bytes, not 16"):
        bitstream.from_bytes(frame(header_to_bytes(stream.header), sections | {COLLECTION: bytes(size)}))


def test_a_finished_file_is_no_collection(coded, tmp_path):
    (tmp_path / "x.vovd").write_bytes(coded[0])
    with pytest.raises(VovError, match="not the θ of a collection"):
        collection.read(tmp_path / "x.vovd")


def test_a_collection_is_exportable_as_every_theta_is(theta, backbone):
    found = export.read(theta)
    assert found.theta.numel() == 32 and found.notes["caption"] == "things"


def test_noise_is_fresh_whatever_a_preset_says():
    assert collection_fit.shared_settings(FitConfig(noise="anchored", timesteps="grid")).noise == "random"


def test_a_video_is_coded_with_the_collection_that_its_decoder_applies(tiny_wan, tmp_path):
    """What the encoder saw at the end of each chunk is what comes out of the file, with a scene's θ on top or not."""
    from tests.test_fit import ball
    from vov import config, media
    from vov.decoding.decode import Decoder
    from vov.model.wan import WanBackbone

    model = WanBackbone.load(str(tiny_wan), "", "cpu", "float32")
    collection_fit.write(tmp_path / "balls.vovd", collection_fit.fit(
        model, [collection_fit.Window(ball(5, 32, 32), "a ball")], FIT, "balls", tmp_path / "fit"))
    media.write_frames(tmp_path / "film", ball(9, 32, 32))
    for theta in ("0", "8"):
        out = tmp_path / f"out{theta}"
        encode_video(config.load(EncodeVideo, dict(
            frames_dir=str(tmp_path / "film"), out_dir=str(out), model_id=str(tiny_wan), width="32", height="32",
            num_frames="5", steps="4", bytes_per_frame="12", score="pixel", scenes="none", resize="crop",
            device="cpu", dtype="float32", collection=str(tmp_path / "balls.vovd"), scene_theta=theta,
            scene_steps="2"), {"CONFIG": ""}))
        with Decoder(bitstream.read(out / "film.vov"), model, texture=0.0) as decoder:  # as encoders see it
            frames = list(decoder.frames())
        for number, last in enumerate((4, 8)):
            chunk, _ = read_state(out / f"chunks/chunk{number:06d}.safetensors")
            assert np.array_equal(chunk["last"], frames[last])
