"""Inputs of the evaluation: bad ones are one clear line, strange but valid ones are measured."""


import numpy as np
import pytest

from tests.clips import panning, photograph
from tests.evaluation import settings, write_clips
from tests.test_video_commands import bash
from vov import VovError, media
from vov.evaluation.evaluate import evaluate
from vov.evaluation.pairs import EvalConfig


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def bad_inputs(folder, out):
    short, other = out / "short", out / "other"
    media.write_frames(short, panning(5, 64, 96))
    media.write_frames(other, panning(7, 48, 96))
    ragged = out / "ragged"
    media.write_frames(ragged, panning(6, 64, 96))
    media.write_image(ragged / "00006.png", photograph(60, 96))
    (out / "empty").mkdir()
    (out / "broken.mp4").write_bytes(b"no video")
    (out / "broken.vov").write_bytes(b"no stream")
    manifests = {"columns": "name,original,decoded,colour\na,b,c,d\n", "empty": "name,original,decoded\n",
                 "row": f"name,original,decoded\na,{folder}/original,\n",
                 "long": f"name,original,decoded\na,{folder}/original,{folder}/decoded,x,y\n",
                 "colons": "name;original\n",
                 "gone": f"name,original,decoded\na,{folder}/original,nowhere\n",
                 "rate": f"name,original,decoded,bpp\na,{folder}/original,{folder}/decoded,-1\n"}
    for name, text in manifests.items():
        (out / f"{name}.csv").write_text(text)
    row = f"name,original,decoded\nMüller,{folder}/original,{folder}/decoded\n"
    for encoding in ("cp1252", "utf-16", "utf-16-le"):
        (out / f"{encoding}.csv").write_bytes(row.encode(encoding))
    return [
        ({"real_dir": ""}, "`real_dir` is not set"),
        ({"fake_dir": ""}, "`fake_dir` is not set"),
        ({"real_dir": str(out / "none")}, "`real_dir`=.*no such folder"),
        ({"fake_dir": str(out / "empty")}, "no images in this folder"),
        ({"fake_dir": str(out / "broken.mp4")}, "not a readable video"),
        ({"fake_dir": str(out / "broken.vov")}, "broken.vov: magic"),
        ({"fake_dir": str(short)}, "7 frames, the reproduction 5; set `frames`=5"),
        ({"num_frames": 9}, "`frames`=9, but the original has 7"),
        ({"fake_dir": str(other)}, "original is 96×64, the reproduction 96×48"),
        ({"fake_dir": str(ragged)}, "00006.png is 96×60"),
        ({"bitstream": str(out / "none")}, "`bitstream`=.*no such file"),
        ({"anchors": "x265"}, "`anchors` need a size to match"),
        ({"anchors": "divx"}, "'divx' is not one of"),
        ({"anchors": "x264", "anchor_bytes": "0,-3"}, "`anchor_bytes`='0,-3': must be positive"),
        ({"reference_curves": str(out / "none.csv")}, "`reference_curves`=.*no such file"),
        ({"reference_curves": str(out / "row.csv")}, "needs columns label, clip, metric"),
        ({"manifest": str(out / "none.csv")}, "`manifest`=.*no such file"),
        ({"manifest": str(out / "columns.csv")}, "unknown column 'colour'"),
        ({"manifest": str(out / "empty.csv")}, "no rows"),
        ({"manifest": str(out / "long.csv")}, "row 1 .a.: 2 cells more than columns; put text that contains commas in"),
        ({"manifest": str(out / "colons.csv")}, "columns, with commas between, are"),
        ({"manifest": str(out / "row.csv")}, "row 1 .a.: needs name, original, and decoded"),
        ({"manifest": str(out / "gone.csv")}, "nowhere does not exist; `data_root` is what"),
        ({"manifest": str(out / "rate.csv")}, "bpp='-1' is not a positive number"),
        *(({variable: str(out / f"{encoding}.csv")}, f"`{variable}`=.*{encoding}.csv: byte .* save it as UTF-8")
          for variable in ("manifest", "reference_curves") for encoding in ("cp1252", "utf-16-le")),
        ({"bd_anchor": "nobody", "bitstream": str(folder / "x.vov.bin"), "skip_metrics": True},
         "`bd_anchor`=nobody: no"),
    ]


def test_every_bad_input_is_one_line_and_writes_no_results(clips, tmp_path):
    for change, message in bad_inputs(clips[0], tmp_path):
        with pytest.raises(VovError, match=message) as caught:
            evaluate(settings(clips, tmp_path, **change), "video")
        assert "\n" not in str(caught.value), change
        assert not (tmp_path / "results").exists(), change


def test_a_manifest_of_a_spreadsheet_in_utf_16_is_read(clips, tmp_path):
    (tmp_path / "m.csv").write_bytes(
        f"name,original,decoded\nMüller,{clips[0]}/original,{clips[0]}/decoded\n".encode("utf-16"))
    results = evaluate(EvalConfig(manifest=str(tmp_path / "m.csv"), skip_metrics=True, skip_fvd=True,
                                  report_video=False, out_dir=str(tmp_path / "out")), "video")
    assert results["items"][0]["name"] == "Müller"


def test_pictures_beyond_webp_s_limit_and_below_ssim_s_window_are_evaluated(tmp_path):
    rng = np.random.default_rng(0)
    for folder in ("a", "b"):
        for name, shape in (("wide", (12, 16400, 3)), ("tiny", (8, 9, 3))):
            media.write_image(tmp_path / folder / f"{name}.png", rng.integers(0, 255, shape, np.uint8))
    results = evaluate(EvalConfig(real_dir=str(tmp_path / "a"), fake_dir=str(tmp_path / "b"), metrics="ssim,ms_ssim",
                                  out_dir=str(tmp_path / "out")), "image")
    tiny, wide = sorted(results["items"], key=lambda item: item["width"])
    assert "at least 11×11" in tiny["unavailable"]["ssim"] and tiny["metrics"]["psnr"] < 20
    assert wide["width"] == 16400 and wide["metrics"]["ms_ssim"] > 0
    assert "data:image/webp" in (tmp_path / "out" / "report.html").read_text()


def test_the_command_turns_a_bad_input_into_one_line_and_exit_code_1(clips, tmp_path):
    done = bash("video/eval/eval.sh", REAL_DIR=str(tmp_path / "none"), FAKE_DIR=str(clips[0] / "decoded"),
                OUT_DIR=str(tmp_path / "out"))
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and done.stderr.startswith("error: REAL_DIR=")
    assert done.stdout == "" and not (tmp_path / "out").exists()
