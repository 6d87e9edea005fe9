"""Outputs: whole ones of the same inputs are kept, missing ones are made, others are refused unless OVERWRITE=1."""

import dataclasses
import json
import resource
import shutil
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.runs import encode_film, image_settings, two_stage, video_settings, write_album, write_clip
from tests.test_golden import GOLDEN
from vov import VovError, bitstream, media
from vov.bitstream import container
from vov.commands import fit
from vov.commands.add_noise import AddNoisePictures, AddNoiseVideo, add_noise_pictures, add_noise_video
from vov.commands.decode import DecodePictures, DecodeVideo, decode_pictures, decode_video
from vov.commands.edit import EditVideo, edit_video
from vov.commands.encode import EncodeVideo
from vov.commands.saving import item_names
from vov.decoding.decode import decode
from vov.model.cache import cached, kept
from vov.model.qwen import QwenBackbone
from vov.runtime import files
from vov.runtime.resumable import Outputs


@pytest.fixture(scope="module")
def fitted(tiny_wan, tmp_path_factory):
    """A finished two-stage run of a clip."""
    folder = tmp_path_factory.mktemp("fitted")
    write_clip(folder / "clip")
    return two_stage(video_settings(tiny_wan, folder / "clip", folder / "out"))


def commands(fitted, tiny_wan, folder):
    """{name: (function, settings, outputs)} of the commands that write several outputs."""
    model = dict(model_id=str(tiny_wan), device="cpu")
    clip = str(fitted.parent.parent / "clip")
    return {
        "reconstruct": (decode_video, DecodeVideo(bitstream=str(fitted), output_dir=str(folder / "r"), **model),
                        [folder / "r/ball", folder / "r/ball.mp4"]),
        "scale": (add_noise_video, AddNoiseVideo(bitstream=str(fitted), original_frames_dir=clip, steps=3,
                                                 output=str(folder / "s/x.vov"), **model),
                  [folder / "s/x.vov", folder / "s/x", folder / "s/x.mp4", folder / "s/result.json"]),
        "edit": (edit_video, EditVideo(weights=str(fitted), caption="a cube", output_video=str(folder / "e/y.mp4"),
                                       **model), [folder / "e/y.mp4", folder / "e/y_sheet.png"]),
    }


def remove(path):
    if path.is_dir():
        for inner in path.iterdir():
            inner.unlink()
    path.unlink() if path.is_file() else path.rmdir()


@pytest.mark.parametrize("command", ["reconstruct", "scale", "edit"])
def test_the_same_command_goes_on_and_another_is_refused(command, fitted, tiny_wan, tmp_path, monkeypatch):
    run, settings, outputs = commands(fitted, tiny_wan, tmp_path)[command]
    run(settings)
    whole = {path: files.path_hash(path) for path in outputs}
    loads, load = [], type(settings).load
    monkeypatch.setattr(type(settings), "load", lambda *a, **k: loads.append(1) or load(*a, **k))
    run(settings)  # all is there: nothing is loaded, nothing is written
    assert not loads
    # A kill at the very moment after an output appeared and before it was noted, and one between two outputs.
    (record,) = outputs[0].parent.glob(".made-*.json")
    for lost, unnoted in ((outputs[1], None), (outputs[-1], outputs[-1].name), (outputs[0], outputs[0].name)):
        noted = json.loads(record.read_text())
        if unnoted:
            record.write_text(json.dumps(noted | {"complete": False, "made": {
                k: v for k, v in noted["made"].items() if k != unnoted}}))
        else:
            remove(lost)
        run(settings)
        found = {path: files.path_hash(path) for path in outputs if path.suffix != ".json"}
        assert found == {path: whole[path] for path in found}
    # Changed by somebody: nothing is replaced.
    victim = outputs[0] if outputs[0].is_file() else outputs[0] / "00000.png"
    victim.write_bytes(b"mine")
    with pytest.raises(VovError, match="has been changed since it was made; set `overwrite`=1"):
        run(settings)
    assert victim.read_bytes() == b"mine"
    run(dataclasses.replace(settings, overwrite=True))
    assert files.path_hash(outputs[0]) == whole[outputs[0]]


def test_outputs_of_other_inputs_are_refused_before_any_model_is_loaded(fitted, tiny_wan, tmp_path, monkeypatch):
    table = commands(fitted, tiny_wan, tmp_path)
    others = {"reconstruct": dict(dtype="bfloat16"), "scale": dict(score="pixel"), "edit": dict(caption="a cone")}
    for name, (run, settings, _) in table.items():
        run(settings)
        monkeypatch.setattr(type(settings), "load", lambda *a, **k: pytest.fail("a model was loaded"))
        with pytest.raises(VovError, match=r"exists; set `overwrite`=1 to replace it .it is of other inputs"):
            run(dataclasses.replace(settings, **others[name]))
    run, settings, _ = table["reconstruct"]
    moved = tmp_path / "elsewhere" / "ball.vov"
    files.write_bytes(moved, fitted.read_bytes())
    run(dataclasses.replace(settings, bitstream=str(moved), dtype="float32"))  # the file's own: the same command
    folder = tmp_path / "foreign"
    media.write_frames(folder / "ball", np.zeros((2, 4, 4, 3), np.uint8))
    with pytest.raises(VovError, match="`overwrite`=1"):
        run(dataclasses.replace(settings, output_dir=str(folder)))
    assert len(list((folder / "ball").iterdir())) == 2


def test_a_part_keeps_its_numbers_and_leaves_no_frames_of_the_whole(fitted, tiny_wan, tmp_path, monkeypatch):
    settings = DecodeVideo(bitstream=str(fitted), output_dir=str(tmp_path), model_id=str(tiny_wan), device="cpu")
    decode_video(settings)
    whole = {path.name: path.read_bytes() for path in (tmp_path / "ball").iterdir()}
    assert sorted(whole) == [f"{number:05d}.png" for number in range(5)]
    for start, count, numbers in ((0, 3, range(3)), (2, 2, range(2, 4)), (3, 0, range(3, 5))):
        decode_video(dataclasses.replace(settings, start_at=start, frames=count, overwrite=True))
        found = {path.name: path.read_bytes() for path in (tmp_path / "ball").iterdir()}
        assert found == {name: whole[name] for name in (f"{number:05d}.png" for number in numbers)}
        assert len(media.read_clip(tmp_path / "ball.mp4").frames) == len(numbers)
    monkeypatch.setattr(DecodeVideo, "load", lambda *_: pytest.fail("a model was loaded"))
    with pytest.raises(VovError, match="`start`=4 `frames`=2: the video has 5 frames, from 0"):
        decode_video(dataclasses.replace(settings, start_at=4, frames=2, output_dir=str(tmp_path / "none")))
    assert not (tmp_path / "none/ball.mp4").exists()


def test_a_decode_parses_its_file_once(fitted, tiny_wan, tmp_path, monkeypatch):
    calls, work = [], container.from_bytes
    monkeypatch.setattr(container, "from_bytes", lambda *given: calls.append(1) or work(*given))
    monkeypatch.setattr(bitstream, "from_bytes", container.from_bytes)
    decode_video(DecodeVideo(bitstream=str(fitted), output_dir=str(tmp_path), model_id=str(tiny_wan), device="cpu"))
    assert len(calls) == 1


def test_an_output_folder_that_is_a_file_or_held_by_another_run_is_one_line(fitted, tiny_wan, tmp_path):
    (tmp_path / "file").write_text("x")
    settings = DecodeVideo(bitstream=str(fitted), output_dir=str(tmp_path / "file"), model_id=str(tiny_wan))
    with pytest.raises(VovError, match="file: is a file, but a folder is needed there; choose another `out_dir`"):
        decode_video(settings)
    path = tmp_path / "out/a.png"
    with (Outputs("a", [path], "x", False), pytest.raises(VovError, match="another run is using it"),
          Outputs("a", [path], "x", False)):
        pass
    with Outputs("a", [path], "x", False), Outputs("b", [tmp_path / "out/b.png"], "x", False):
        pass  # different outputs of one folder
    assert not (tmp_path / "out").exists()


def test_a_second_video_in_the_folder_of_another_is_refused_before_it_is_coded(tiny_wan, tmp_path, monkeypatch):
    first, second = (write_clip(tmp_path / name, shade) for name, shade in (("a", 0), ("b", 90)))
    made = encode_film(tiny_wan, first, tmp_path / "out")
    assert encode_film(tiny_wan, first, tmp_path / "out") == made  # the same command again
    with monkeypatch.context() as patch:
        patch.setattr(EncodeVideo, "load", lambda *a, **k: pytest.fail("a model was loaded"))
        with pytest.raises(VovError, match=r"result\.json exists and is of a\.vov; choose another `out_dir`"):
            encode_film(tiny_wan, second, tmp_path / "out")
    encode_film(tiny_wan, second, tmp_path / "out", overwrite=True)
    assert json.loads((tmp_path / "out/result.json").read_text())["file"] == "b.vov" and made.is_file()


@contextmanager
def disk_of(size):
    """No file of this process can grow beyond `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_one_line_and_the_same_command_goes_on(tiny_wan, tmp_path):
    """At every size: checkpoint, log, .vov, frames, video and result.json each meet the end of the disk."""
    clip = write_clip(tmp_path / "clip")
    whole = two_stage(video_settings(tiny_wan, clip, tmp_path / "whole"))
    settings = video_settings(tiny_wan, clip, tmp_path / "out", train_steps=2)
    failures = []
    for size in (0, 300, 700, 1500, 4000, 6000, 9000):
        with disk_of(size):
            try:
                two_stage(settings)
            except VovError as error:
                failures.append(str(error))
        assert not list((tmp_path / "out").rglob("*.part*"))
    assert len(failures) >= 4 and all("the disk is full" in text for text in failures), failures
    path = two_stage(settings)
    assert path.read_bytes() == whole.read_bytes()
    for name in ("ball", "ball.mp4"):
        assert files.path_hash(path.parent / name) == files.path_hash(whole.parent / name)
    lines = [json.loads(line) for line in (path.parent / "stage1/log.jsonl").read_text().splitlines()]
    steps = [(line["step"], "loss" in line) for line in lines]
    assert len(steps) == len(set(steps)), steps


def test_a_cache_that_cannot_be_written_costs_a_line_not_the_run(tiny_wan, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("VOV_CACHE", str(tmp_path / "file"))
    assert two_stage(video_settings(tiny_wan, write_clip(tmp_path / "clip"), tmp_path / "out")).is_file()
    said = caplog.text
    assert "not cached: " in said and "choose another `vov_cache`" in said and "out_dir" not in said
    monkeypatch.setenv("VOV_CACHE", str(tmp_path / "cache"))
    with disk_of(0):
        assert torch.equal(cached("text", "key", lambda: {"a": torch.ones(3)})["a"], torch.ones(3))
    assert kept("text", "key") is None


def test_a_log_does_not_repeat_steps_after_a_kill(tiny_wan, tmp_path):
    clip = write_clip(tmp_path / "clip")
    settings = video_settings(tiny_wan, clip, tmp_path / "out", train_steps=12, save_every=5)
    fit.stage1(settings)
    text = (tmp_path / "out/log.jsonl").read_text()
    shorter = dataclasses.replace(settings, out_dir=str(tmp_path / "cut"))
    with pytest.MonkeyPatch.context() as patch:
        from vov.fitting.fit import Fit

        advance = Fit.advance

        def killed(self, step):
            if step == 11:
                raise KeyboardInterrupt
            return advance(self, step)
        patch.setattr(Fit, "advance", killed)
        with pytest.raises(KeyboardInterrupt):
            fit.stage1(shorter)
    with (tmp_path / "cut/log.jsonl").open("a") as log:
        log.write('{"step": 11, "lo')  # cut off by the kill
    fit.stage1(shorter)
    ours, theirs = ([(line["step"], line.get("loss")) for line in map(json.loads, log.splitlines())]
                    for log in (text, (tmp_path / "cut/log.jsonl").read_text()))
    assert ours == theirs


@pytest.mark.parametrize(("names", "expected"), [
    (["a.png", "a.jpg"], ["00001", "00002"]),
    (["", ""], ["00001", "00002"]),
    (["", "a.png"], ["00001", "a"]),
    (["a.png", "a.png.png/b.c"], ["a", "a.png.png/b"]),
    (["a.png", "a.png/b.c"], ["00001", "a.png/b"]),
    (["a.png", "A.PNG", "b/c.x", "b.d"], ["00001", "00002", "b/c", "b"]),
    (["a" * 250, "b.png"], ["00001", "b"]),
    (["00002.png", "", "x.y"], ["00001", "00002", "x"]),
])
def test_items_decode_into_files_of_their_own(names, expected, tmp_path):
    found = item_names(names)
    assert found == expected
    assert len({f"{name}.png".casefold() for name in found}) == len(names)
    for index, name in enumerate(found):
        media.write_image(tmp_path / f"{name}.png", np.full((2, 2, 3), index, np.uint8))
    assert [media.read_image(tmp_path / f"{name}.png")[0, 0, 0] for name in found] == list(range(len(names)))


def test_an_album_of_strange_names_decodes_whole(tiny_qwen, tmp_path, capsys):
    path = two_stage(image_settings(tiny_qwen, write_album(tmp_path / "album"), tmp_path / "out"))
    stream = bitstream.read(path)
    named = [dataclasses.replace(item, name=name) for item, name in
             zip(stream.items, ("a.png", "a.jpg", ""), strict=True)]
    bitstream.write(tmp_path / "odd.vov", dataclasses.replace(stream, items=named))
    asked = DecodePictures(bitstream=str(tmp_path / "odd.vov"), output_dir=str(tmp_path / "decoded"),
                           model_id=str(tiny_qwen))
    decode_pictures(asked)
    assert sorted(p.name for p in (tmp_path / "decoded/odd").iterdir()) == ["00001.png", "00002.png", "00003.png"]
    model = asked.load(QwenBackbone, stream.header)
    for index, clip in enumerate(decode(path, model)):
        assert np.array_equal(media.read_image(tmp_path / f"decoded/odd/{index + 1:05d}.png"), clip.frames[0])
    scaled = AddNoisePictures(bitstream=str(path), data_root=str(tmp_path / "album"), output=str(tmp_path / "s/n.vov"),
                              model_id=str(tiny_qwen), steps=3)
    add_noise_pictures(scaled)
    first = (tmp_path / "s/n.vov").read_bytes()
    (tmp_path / "s/result.json").unlink()
    add_noise_pictures(scaled)
    assert (tmp_path / "s/n.vov").read_bytes() == first and (tmp_path / "s/result.json").is_file()


def test_what_is_refused_leaves_no_folder_and_no_record(tmp_path):
    path = tmp_path / "a" / "b" / "x.png"

    def refuse():
        raise VovError("no weights")

    with pytest.raises(VovError, match="no weights"), Outputs("x", [path], "i", False) as outputs:
        outputs.make(path, refuse)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_vanishes_under_a_run_does_not_shut_the_same_command_out(tmp_path):
    paths = [tmp_path / "out/x", tmp_path / "out/x.mp4"]

    def vanish():
        shutil.rmtree(tmp_path / "out")
        files.write_bytes(paths[0] / "00000.png", b"a frame that came later")
        raise VovError("x.mp4: no such folder")

    with pytest.raises(VovError, match="no such folder"), Outputs("x", paths, "same", False) as outputs:
        outputs.make(paths[0], vanish)
    with Outputs("x", paths, "same", False) as outputs:
        assert not outputs.has(paths[0]) and not outputs.complete
    with pytest.raises(VovError, match="it is of other inputs"):
        Outputs("x", paths, "another", False)


def test_a_sequence_of_one_frame_decodes_to_a_folder_and_a_video(tiny_wan, tmp_path):
    stream = bitstream.read(GOLDEN / "video_sequence.vov")
    scene, chunk = stream.sequence.scenes[0], stream.sequence.chunks[0]
    one = dataclasses.replace(stream.sequence, scenes=(dataclasses.replace(scene, chunks=1),),
                              chunks=(dataclasses.replace(chunk, frames=1),))
    bitstream.write(tmp_path / "x.vov", dataclasses.replace(stream, sequence=one, items=stream.items[:1]))
    settings = DecodeVideo(bitstream=str(tmp_path / "x.vov"), output_dir=str(tmp_path / "o"), model_id=str(tiny_wan),
                           device="cpu")
    for _ in range(2):  # the second time all is there
        decode_video(settings)
    assert sorted(p.name for p in (tmp_path / "o").glob("[!.]*")) == ["x", "x.mp4"]
