"""Claims about sequences: the file, the plan of chunks, coding and decoding with an untrained 2-layer Wan."""

import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.test_fit import ball
from vov import VovError, bitstream, config, media
from vov.adapter.adapt import AdapterSpec, layer_shapes, project
from vov.adapter.adapted import AdaptedModel
from vov.adapter.quantiser import from_symbols
from vov.bitstream import Bitstream, Item
from vov.bitstream.noise_code import LEVELS
from vov.bitstream.sequence_code import (
    MAX_SCALE,
    TRELLIS_SCALE,
    Chunk,
    Scene,
    SequenceCode,
    atoms,
    from_sections,
    on_grid,
    pack,
    to_sections,
    unpack,
)
from vov.decoding.decode import Decoder
from vov.media import FrameSource
from vov.model.wan import WanBackbone
from vov.runtime.signals import Stopped
from vov.runtime.state import read_state
from vov.sequence import theta as scene_theta
from vov.sequence.chunk import profile_of
from vov.sequence.encode import SequenceEncoder
from vov.sequence.plan import spans
from vov.sequence.settings import SequenceConfig
from vov.sequence.theta import SceneThetas, spec_of, windows

SETTINGS = SequenceConfig(width=32, height=32, num_frames=5, steps=5, bytes_per_frame=16.0, resize="crop",
                          score="pixel", device="cpu")


@pytest.fixture(scope="module")
def backbone(tiny_wan):
    return WanBackbone.load(str(tiny_wan), "unused", "cpu")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of 16 frames with a cut at frame 9."""
    folder = tmp_path_factory.mktemp("film") / "film"
    media.write_frames(folder, np.concatenate([ball(9, 32, 32), 255 - ball(7, 32, 32)]))
    return folder


def encoder(backbone, clip, folder, settings=SETTINGS, key_every=2):
    source = FrameSource(clip, size=(32, 32), resize="crop")
    planned = spans([0, 9], len(source), 5, key_every)
    return SequenceEncoder(backbone, source, planned, ["", "inverted"], settings, folder)


@pytest.fixture(scope="module")
def coded(backbone, clip, tmp_path_factory):
    """(encoder, stream, what `done` saw)."""
    seen = {}
    made = encoder(backbone, clip, tmp_path_factory.mktemp("chunks"))
    code = made.run(lambda number, chunk: seen.update({number: chunk}))
    return made, made.bitstream(code, 32, 32), seen


# --- the file ---------------------------------------------------------------------------------------------------------


def test_atoms_grow_with_profile_and_scale_and_are_levels():
    profile = np.array([0, 1, 200, 254, 255])
    plans = [atoms(profile, scale) for scale in (0, 64, 300, MAX_SCALE)]
    assert all((a <= b).all() for a, b in pairwise(plans)) and all(set(plan) <= set(LEVELS) for plan in plans)
    assert plans[0].tolist() == [0, 0, 0, 0, 1] and plans[1][4] == 2 and plans[3][4] == 512 and plans[3][0] == 0
    assert atoms(profile, TRELLIS_SCALE, 4096)[4] == 4096 and atoms(profile, MAX_SCALE, 4096)[4] == 1024


def test_packed_symbols_come_back_in_the_bits_they_need():
    symbols = np.random.default_rng(0).integers(0, 1 << 17, 333)
    assert len(pack(symbols, 17)) == -(-333 * 17 // 8) and np.array_equal(unpack(pack(symbols, 17), 333, 17), symbols)


def test_a_sequence_reads_back_as_it_was_and_its_parts_add_up(coded, tmp_path):
    _, stream, _ = coded
    theta = np.array([3, -128, 0, 5])
    scenes = (dataclasses.replace(stream.sequence.scenes[0], symbols=theta, step=0.25), *stream.sequence.scenes[1:])
    header = dataclasses.replace(stream.header, theta_length=4)
    stream = Bitstream(header, stream.items, None, extra={0x81: b"sound"},
                       sequence=dataclasses.replace(stream.sequence, scenes=scenes))
    parts = bitstream.write(tmp_path / "x.vov", stream)
    assert parts.total == (tmp_path / "x.vov").stat().st_size and parts.sound == 5 + 6 and parts.theta > 4
    again = bitstream.read(tmp_path / "x.vov")
    assert bitstream.to_bytes(again) == bitstream.to_bytes(stream) and again.items == stream.items
    assert again.sequence.noise == stream.sequence.noise and again.sequence.scenes[0].step == 0.25
    assert np.array_equal(again.sequence.scenes[0].symbols, theta) and again.sequence.scenes[1].symbols is None
    for ours, theirs in zip(again.sequence.chunks, stream.sequence.chunks, strict=True):
        assert (ours.frames, ours.chained, ours.scale) == (theirs.frames, theirs.chained, theirs.scale)
        assert np.array_equal(ours.symbols, theirs.symbols)
    assert "chunk 1" in bitstream.describe(tmp_path / "x.vov")


@pytest.mark.parametrize("branch", [0, 4])
def test_a_coarse_profile_takes_fewer_bytes_and_a_fine_one_still_reads(coded, branch):
    _, stream, _ = coded
    stream = dataclasses.replace(stream, sequence=dataclasses.replace(
        stream.sequence, noise=stream.sequence.noise | {"branch": branch}))
    fine = np.random.default_rng(0).integers(130, 256, stream.sequence.noise["steps"])
    read = []
    for profile in (fine, on_grid(fine)):
        scenes = (dataclasses.replace(stream.sequence.scenes[0], profile=profile), *stream.sequence.scenes[1:])
        sections = to_sections(dataclasses.replace(stream.sequence, scenes=scenes, chunks=tuple(
            dataclasses.replace(chunk, scale=0, symbols=np.zeros(
                (atoms(scenes[stream.sequence.scene_of(number)].profile, 0)).sum(), np.int32))
            for number, chunk in enumerate(stream.sequence.chunks))))
        again = from_sections(*sections, stream.header, stream.items, "x")
        assert np.array_equal(again.scenes[0].profile, profile)
        read.append(sections[0])
    assert (read[0][0], read[1][0]) == ((3, 4) if branch else (1, 2)) and len(read[1]) < len(read[0])
    assert on_grid(np.array([0, 1, 254, 255])).tolist() == [0, 3, 255, 255]
    assert np.abs(on_grid(np.arange(1, 256)) - np.arange(1, 256)).max() <= 3


@pytest.mark.parametrize(("change", "said"), [
    (lambda c: dataclasses.replace(c, bits=(25, 9)), "bits"),
    (lambda c: dataclasses.replace(c, noise=c.noise | {"steps": 900}), "steps"),
    (lambda c: dataclasses.replace(c, scenes=c.scenes[:1], chunks=c.chunks[:c.scenes[0].chunks]), "captions"),
    (lambda c: dataclasses.replace(c, chunks=(dataclasses.replace(c.chunks[0], chained=True), *c.chunks[1:])), "fit"),
    (lambda c: dataclasses.replace(c, chunks=(dataclasses.replace(c.chunks[0], frames=6), *c.chunks[1:])), "frames"),
])
def test_what_no_encoder_writes_is_refused_in_one_line(coded, change, said):
    _, stream, _ = coded
    data = bitstream.to_bytes(dataclasses.replace(stream, sequence=change(stream.sequence)))
    with pytest.raises(VovError, match=said) as caught:
        bitstream.from_bytes(data, "x.vov")
    assert "\n" not in str(caught.value)


def test_scenes_and_chunks_must_add_up():
    with pytest.raises(VovError, match="do not add up"):
        SequenceCode({}, (9, 9), (Scene(2, np.zeros(3)),), (Chunk(5, False, 0, np.zeros(0)),))


def test_a_step_with_one_atom_keeps_it_at_scales_below_the_plans():
    plan = np.array([0, 1, 1, 2, 5, 12, 24, 40, 20])
    profile = profile_of(plan)
    top = next(scale for scale in range(MAX_SCALE) if atoms(profile, scale).max() == 40)
    for scale in range(top - 24, top + 1):
        assert np.array_equal(atoms(profile, scale) > 0, plan > 0)


# --- coding -----------------------------------------------------------------------------------------------------------


def test_the_decoder_makes_the_frames_that_the_encoder_saw(backbone, coded):
    _, stream, seen = coded
    stream = bitstream.from_bytes(bitstream.to_bytes(stream))
    with Decoder(stream, backbone) as decoder:
        chunks = list(decoder.decoded(decoder.passes))
        assert [len(frames) for _, frames in chunks] == [chunk.frames for chunk in stream.sequence.chunks]
        for one, frames in chunks:
            assert np.array_equal(frames[-1], seen[one.number].last)
        assert sum(1 for _ in decoder.frames()) == 16


def test_a_chunk_in_the_middle_decodes_alone_to_the_same_frames(backbone, coded):
    _, stream, _ = coded
    with Decoder(stream, backbone) as decoder:
        whole = np.stack(list(decoder.frames()))
        for start, count in ((6, 2), (9, 3), (12, 4), (15, 1)):
            assert np.array_equal(np.stack(list(decoder.frames(0, start, count))), whole[start:start + count])
        with pytest.raises(VovError, match="16 frames"):
            next(decoder.frames(0, 16, 1))


def test_a_video_without_theta_is_the_frozen_models_and_its_header_has_the_hash_of_real_indices(backbone, coded):
    _, stream, _ = coded
    spec, before = AdapterSpec.of(stream.header), [type(module) for module in backbone.transformer.modules()]
    assert spec.index_hash == project(dataclasses.replace(spec, index_hash=None),
                                      layer_shapes(spec, backbone, backbone.transformer)).hash != bytes(8)
    with Decoder(stream, backbone) as decoder:
        next(decoder.frames())
        assert [type(module) for module in backbone.transformer.modules()] == before


def test_texture_changes_what_is_shown_and_not_what_the_next_chunk_follows(backbone, coded):
    _, stream, _ = coded
    with Decoder(stream, backbone) as plain, Decoder(stream, backbone, texture=1.0) as textured:
        chunks = list(plain.decoded(plain.passes))
        for (one, mean), (other, sample) in zip(chunks, textured.decoded(textured.passes), strict=True):
            assert one.number == other.number and mean.shape == sample.shape and not np.array_equal(mean, sample)
        start, known = textured.sampling.start, []
        textured.sampling.start = lambda number, before: known.append(before) or start(number, before)
        list(textured.frames())
        follows = [one.number for one in textured.passes if one.chained]
        assert follows and all(np.array_equal(known[i], chunks[i - 1][1][-1]) for i in follows)


@pytest.mark.parametrize(("texture", "twice"), [(0.0, False), (1.0, True)])
def test_a_chunk_is_decoded_once_where_its_frames_are_those_that_the_next_one_follows(backbone, coded, monkeypatch,
                                                                                     texture, twice):
    _, stream, _ = coded
    calls, work = [], backbone.decode
    monkeypatch.setattr(backbone, "decode", lambda latents: calls.append(1) or work(latents))
    with Decoder(stream, backbone, texture=texture) as decoder:
        assert sum(1 for _ in decoder.frames()) == 16
        followed = sum(one.chained for one in decoder.passes)
    assert followed and len(calls) == len(stream.sequence.chunks) + twice * followed


def test_a_short_clip_has_texture_by_itself_and_a_longer_video_none(backbone, coded, clip, tmp_path):
    def frames(stream, **more):
        with Decoder(stream, backbone, **more) as decoder:
            return decoder.texture, np.stack(list(decoder.frames()))

    _, film, _ = coded
    assert frames(film)[0] == 0.0
    source = FrameSource(clip, frames=5, size=(32, 32), resize="crop")
    made = SequenceEncoder(backbone, source, spans([0], 5, 5, 1), [""], SETTINGS, tmp_path)
    short = made.bitstream(made.run(lambda number, chunk: None), 32, 32)
    assert short.sequence.noise["end"] > 0
    usual, shown = frames(short)
    assert usual == 0.5 and np.array_equal(shown, frames(short, texture=0.5)[1])
    plain, mean = frames(short, texture=0.0)
    assert plain == 0.0 and not np.array_equal(shown, mean)


def test_a_stopped_run_goes_on_at_the_chunk_at_hand_and_ends_with_the_same_file(backbone, coded, clip, tmp_path):
    _, whole, _ = coded

    def stop(number, _):
        if number == 1:
            raise Stopped(15)

    with pytest.raises(Stopped):
        encoder(backbone, clip, tmp_path).run(stop)
    made = encoder(backbone, clip, tmp_path)
    chosen = []
    made.chunks.code = lambda job, *rest, plain=made.chunks.code: chosen.append(job.number) or plain(job, *rest)
    assert bitstream.to_bytes(made.bitstream(made.run(), 32, 32)) == bitstream.to_bytes(whole)
    assert chosen == list(range(2, len(made.spans)))


def test_another_setting_or_clip_uses_no_old_chunk(backbone, coded, clip, tmp_path):
    made = encoder(backbone, clip, tmp_path)
    made.run()
    other = encoder(backbone, clip, tmp_path, dataclasses.replace(SETTINGS, seed=7))
    assert other.settings_hash() != made.settings_hash()


@pytest.mark.parametrize("target", [420, 900, 2000])
def test_a_budget_for_the_whole_file_is_met(backbone, clip, tmp_path, target):
    settings = dataclasses.replace(SETTINGS, bytes_per_frame=0.0, target_bytes=target)
    made = encoder(backbone, clip, tmp_path, settings)
    size = len(bitstream.to_bytes(made.bitstream(made.run(), 32, 32)))
    assert 0.97 * target <= size <= target


def test_impossible_budgets_are_refused(backbone, clip, tmp_path):
    settings = dataclasses.replace(SETTINGS, bytes_per_frame=0.0, target_bytes=900)
    with pytest.raises(VovError, match="too few"):
        encoder(backbone, clip, tmp_path, dataclasses.replace(settings, target_bytes=50))
    with pytest.raises(VovError, match="give one of them"):
        encoder(backbone, clip, tmp_path, dataclasses.replace(settings, target_kbps=1.0))


# --- a scene's θ ------------------------------------------------------------------------------------------------------


THETA = dataclasses.replace(SETTINGS, scene_theta=40, scene_steps=6, bytes_per_frame=24.0)


@pytest.fixture(scope="module")
def with_theta(backbone, clip, tmp_path_factory):
    made = encoder(backbone, clip, tmp_path_factory.mktemp("theta"), THETA)
    return made, made.bitstream(made.run(), 32, 32)


def test_every_scene_has_a_theta_and_the_decoder_binds_it(backbone, with_theta):
    made, stream = with_theta
    stream = bitstream.from_bytes(bitstream.to_bytes(stream))
    assert [len(scene.symbols) for scene in stream.sequence.scenes] == [40, 40]
    assert not np.array_equal(*(scene.symbols for scene in stream.sequence.scenes))
    with Decoder(stream, backbone) as decoder:
        decoded = np.stack(list(decoder.frames()))
        assert np.array_equal(np.stack(list(decoder.frames(0, 10, 2))), decoded[10:12])
    for number, span in enumerate(made.spans):
        kept, _ = read_state(made.folder / f"chunk{number:06d}.safetensors")
        assert np.array_equal(kept["last"], decoded[span.first + span.frames - 1])
    zero = [dataclasses.replace(scene, symbols=0 * scene.symbols) for scene in stream.sequence.scenes]
    plain = dataclasses.replace(stream, sequence=dataclasses.replace(stream.sequence, scenes=tuple(zero)))
    with Decoder(plain, backbone) as decoder:
        assert not np.array_equal(np.stack(list(decoder.frames())), decoded)


def test_a_run_with_theta_goes_on_where_it_was_and_gives_the_model_back(backbone, with_theta, clip, tmp_path):
    _, whole = with_theta

    def stop(number, _):
        if number == 3:
            raise Stopped(15)

    with pytest.raises(Stopped):
        encoder(backbone, clip, tmp_path, THETA).run(stop)
    assert not [name for name, _ in backbone.transformer.named_modules() if name.endswith(".base")]
    made = encoder(backbone, clip, tmp_path, THETA)
    assert bitstream.to_bytes(made.bitstream(made.run(), 32, 32)) == bitstream.to_bytes(whole)


def test_the_bytes_of_theta_count_towards_a_target(backbone, clip, tmp_path):
    settings = dataclasses.replace(THETA, bytes_per_frame=0.0, target_bytes=700)
    made = encoder(backbone, clip, tmp_path, settings)
    assert 0.97 * 700 <= len(bitstream.to_bytes(made.bitstream(made.run(), 32, 32))) <= 700


def test_theta_lowers_the_error_of_the_windows_it_was_fitted_to(backbone, clip, tmp_path, monkeypatch):
    settings = dataclasses.replace(THETA, scene_steps=60, scene_lr=0.1, scene_theta=400)
    read = FrameSource(clip, size=(32, 32), resize="crop").read
    shown = windows(read, spans([0], 9, 5), 5, 8)
    assert [window.chained for window in shown] == [False, True]
    assert np.array_equal(shown[1].frames[0], shown[0].frames[-1])
    monkeypatch.setattr(scene_theta, "BATCH", 2)
    with AdaptedModel(backbone, spec_of(settings, backbone)) as model:
        thetas = SceneThetas(model, settings, 3.0)
        theta = thetas.fit(shown, backbone.embed([""])[0], tmp_path / "fit", None)
        monkeypatch.setattr(scene_theta, "BATCH", 32)  # the same noise for both
        judge = thetas.job(shown, backbone.embed([""])[0], tmp_path / "judge", {})
        without, fitted = (judge.distortion_of(vector) for vector in (
            torch.zeros(400), from_symbols(theta.symbols, theta.step)))
    assert fitted < 0.97 * without


def test_theta_may_be_fitted_to_crops_that_lie_in_their_scene(backbone, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(scene_theta, "WINDOWS", 12)
    settings = dataclasses.replace(THETA, scene_crop="16x16x1")
    film = FrameSource(clip, size=(32, 32), resize="crop")
    whole, second = np.stack(list(film)), [span for span in spans([0, 9], 16, 5) if span.scene == 1]
    with AdaptedModel(backbone, spec_of(settings, backbone)) as model:
        shown = SceneThetas(model, settings, 3.0).windows(film.read, second)
    assert [window.chained for window in shown] == [False, True] * 6
    places = {(t, y, x) for window in shown for t in range(16) for y in range(17) for x in range(17)
              if np.array_equal(whole[t, y:y + 16, x:x + 16], window.frames[0])}
    assert min(t for t, _, _ in places) >= 9 and len({t for t, _, _ in places}) > 2
    assert all(window.frames.shape == (1, 16, 16, 3) for window in shown)
    monkeypatch.setattr(scene_theta, "WINDOWS", 3)
    made = encoder(backbone, clip, tmp_path, dataclasses.replace(settings, scene_crop="16×32×5"))
    assert all(len(scene.symbols) == 40 for scene in made.run().scenes)


@pytest.mark.parametrize(("said", "told"), [("16x16", "is not WIDTHxHEIGHTxFRAMES"), ("64x32x5", "must lie in"),
                                            ("20x16x5", "`scene_crop`=20x16x5: `width`=20"),
                                            ("16x16x4", "`num_frames`=4")])
def test_crops_that_no_model_makes_are_refused(backbone, clip, tmp_path, said, told):
    with pytest.raises(VovError, match=told):
        encoder(backbone, clip, tmp_path, dataclasses.replace(THETA, scene_crop=said))


@pytest.mark.parametrize("said", ["-1", "many", "auto", "1e3", "99999999"])
def test_a_theta_of_no_length_is_refused(said):
    with pytest.raises(VovError, match="SCENE_THETA"):
        config.load(SequenceConfig, {}, {"SCENE_THETA": said})


def test_a_caption_is_kept_for_every_scene(coded):
    assert [item.caption for item in coded[1].items] == ["", "inverted"]
    assert Item("", 1, 1).caption == ""
