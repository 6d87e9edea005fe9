"""A θ that many files share: files name it by its hash, and decode only with it."""

import dataclasses

import numpy as np
import pytest

from vov import VovError, bitstream, codec
from vov.bitstream.container import COLLECTION, frame, unframe
from vov.bitstream.header import header_to_bytes
from vov.codec import Source
from vov.decoding import collection
from vov.fitting import collection_fit
from vov.fitting.settings import FitConfig
from vov.formats import export
from vov.noise.bare import bare
from vov.noise.options import ScalingConfig
from vov.noise.search import scale

FIT = FitConfig(width=32, height=32, rank=2, theta_length=32, last_k=2, train_steps=2, lr=0.5, batch_size=2,
                preview_every=0, theta_init=2.0, shift=3.0, decode_steps=3)


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
    source = Source(picture(9), 0.0, "a thing", "x.png")
    backbone.collection_dir = str(theta.parent)
    stream = dataclasses.replace(bare(backbone, [source], FIT), collection=collection.read(theta).name)
    made, frames = scale(stream, backbone, [source], ScalingConfig(scheme="paper", bits=4, steps=3))
    backbone.collection_dir = ""
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
        backbone.collection_dir = str(theta.parent) if place == "folder" else ""
        (clip,) = codec.decode_file(path, backbone)
        backbone.collection_dir = ""
        assert np.array_equal(clip.frames, seen)


def test_the_collection_changes_what_is_decoded_and_leaves_the_model_as_it_was(backbone, theta, coded, tmp_path):
    data, seen = coded
    before = [type(module) for module in backbone.transformer.modules()]
    (tmp_path / "plain.vov").write_bytes(
        bitstream.to_bytes(dataclasses.replace(bitstream.from_bytes(data), collection=b"")))
    (clip,) = codec.decode_file(tmp_path / "plain.vov", backbone)
    assert not np.array_equal(clip.frames, seen)
    assert [type(module) for module in backbone.transformer.modules()] == before


def test_a_missing_or_changed_collection_is_named_in_one_line(backbone, theta, coded, tmp_path):
    (tmp_path / "x.vov").write_bytes(coded[0])
    changed = dataclasses.replace(collection.read(theta).stream, symbols=np.ones(32, np.int32))
    bitstream.write(tmp_path / "things.vovd", changed)
    with pytest.raises(VovError, match=f"collection {collection.read(theta).name.hex()} is missing.*COLLECTION_DIR"):
        codec.decode_file(tmp_path / "x.vov", backbone)


def test_a_collection_used_here_is_found_in_the_cache(backbone, theta, coded, tmp_path):
    collection.remember(str(theta))
    (tmp_path / "x.vov").write_bytes(coded[0])
    assert len(codec.decode_file(tmp_path / "x.vov", backbone)) == 1


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
    from video import encode as video_encode
    from vov import config, media
    from vov.decoding.sequence import SequenceDecoder
    from vov.model.wan import WanBackbone

    model = WanBackbone.load(str(tiny_wan), "", "cpu", "float32")
    collection_fit.write(tmp_path / "balls.vovd", collection_fit.fit(
        model, [collection_fit.Window(ball(5, 32, 32), "a ball")], FIT, "balls", tmp_path / "fit"))
    media.write_frames(tmp_path / "film", ball(9, 32, 32))
    for theta in ("0", "8"):
        out = tmp_path / f"out{theta}"
        video_encode.main(config.load(video_encode.Encode, dict(
            frames_dir=str(tmp_path / "film"), out_dir=str(out), model_id=str(tiny_wan), width="32", height="32",
            num_frames="5", steps="4", bytes_per_frame="12", score="pixel", scenes="none", resize="crop",
            device="cpu", dtype="float32", collection=str(tmp_path / "balls.vovd"), scene_theta=theta,
            scene_steps="2"), {"CONFIG": ""}))
        with SequenceDecoder(model, bitstream.read(out / "film.vov"), texture=0.0) as decoder:  # as encoders see it
            frames = list(decoder.frames())
        for number, last in enumerate((4, 8)):
            with np.load(out / f"chunks/chunk{number:06d}.npz") as chunk:
                assert np.array_equal(chunk["last"], frames[last])
