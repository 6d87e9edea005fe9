"""The evaluation a user runs: the real commands, what they write, and one clear line for every bad input."""

import csv
import dataclasses
import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.clips import film, noisy, panning, photograph
from tests.evaluation import QUICK, settings, write_clips
from tests.metric_weights import save_i3d, save_trunks
from tests.runs import encode_film
from tests.test_video_commands import bash
from vov import VovError, bitstream, media, metrics
from vov.evaluation import anchors
from vov.evaluation.evaluate import evaluate
from vov.evaluation.pairs import EvalConfig
from vov.fitting.encoder import header_of
from vov.fitting.settings import FitConfig
from vov.model.wan import WanBackbone
from vov.runtime.files import REPO


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    return write_clips(tmp_path_factory.mktemp("clips"))


def test_the_command_writes_every_file_and_prints_the_table(clips, tmp_path):
    folder, clip = clips
    done = bash("video/eval/eval.sh", REAL_DIR=str(folder / "original"), FAKE_DIR=str(folder / "decoded"),
                BITSTREAM=str(folder / "x.vov.bin"), OUT_DIR=str(tmp_path / "out"), NAME="mine", DEVICE="cpu",
                TORCH_HOME=str(tmp_path / "no-weights"), OMP_NUM_THREADS="2",
                METRICS=QUICK + ",lpips_vgg,lpips_alex,dists,fvd,xpsnr")
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "out").glob("[!.]*")} == {
        "results.json", "results.csv", "results.md", "rd.svg", "report.html"}
    (item,) = json.loads((tmp_path / "out" / "results.json").read_text())["items"]
    assert item["codec"] == "mine" and item["bytes"] == 777 and item["rate_source"] == "file"
    assert item["bpp"] == pytest.approx(8 * 777 / (7 * 64 * 96))
    assert item["kB_per_s"] == pytest.approx(0.777 / (7 / 24))
    assert item["metrics"]["psnr"] == pytest.approx(metrics.psnr(clip, noisy(clip, 10)), abs=1e-9)
    assert item["metrics"]["ms_ssim"] == pytest.approx(metrics.ms_ssim(clip, noisy(clip, 10)), abs=1e-6)
    assert "| original | mine | 0.14453 |" in done.stdout
    for missing in ("vgg16-397923af.pth", "alexnet-owt-7be5be79.pth", "dists_weights.pt", "i3d_torchscript.pt"):
        assert f"no {missing} in PyTorch's cache; fetch it with: WHAT=metrics bash scripts/fetch" in done.stdout
    again = bash("video/eval/eval.sh", REAL_DIR=str(folder / "original"), FAKE_DIR=str(folder / "decoded"),
                 OUT_DIR=str(tmp_path / "out"))
    assert again.returncode == 1 and again.stderr.count("\n") == 1
    assert "results.json exists; set OVERWRITE=1" in again.stderr


@pytest.mark.parametrize("script", ["video/eval/eval.sh", "image/eval.sh"])
def test_help_lists_every_variable_of_the_reference(script):
    done = subprocess.run(["bash", str(REPO / script), "--help"], capture_output=True, text=True, check=True)
    for name in ("REAL_DIR", "FAKE_DIR", "NAME", "NUM_FRAMES", "WORK_DIR", "OUT_DIR", "SKIP_METRICS", "SKIP_FVD",
                 "DEVICE", "BITSTREAM", "MANIFEST", "ANCHORS", "METRIC_WEIGHTS_DIR"):
        assert re.search(rf"\b{name}\b", done.stdout), name
    assert "./fvd_clips" in done.stdout and "./results" in done.stdout


def test_every_metric_with_its_weights(clips, tmp_path):
    """The complete path: LPIPS, DISTS and FVD from files, 18 frames, so that FVD has its windows."""
    save_trunks(tmp_path)
    save_i3d(tmp_path, divisor=8)
    clip = panning(17, 64, 64)
    for name, frames in (("a", clip), ("b", noisy(clip, 8))):
        media.write_frames(tmp_path / name, frames)
    rows = [["name", "codec", "clip", "original", "decoded"], ["one", "noise", "first", "a", "b"],
            ["two", "noise", "second", "b", "a"]]
    with (tmp_path / "m.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows(rows)
    results = evaluate(EvalConfig(manifest=str(tmp_path / "m.csv"), metric_weights_dir=str(tmp_path), frame_step=8,
                                  out_dir=str(tmp_path / "out"), report_video=False,
                                  metrics="lpips_vgg,lpips_alex,dists,fvd,fvd_full,warp"), "video")
    for item in results["items"]:
        assert set(item["unavailable"]) == {"fvd_full"}
        assert item["fvd_clips"] == 2  # 64×64, scaled to 224×224, has one place and two times
        assert all(item["metrics"][name] > 0 for name in ("fvd", "lpips_vgg", "lpips_alex", "dists"))
        assert len(item["per_frame"]["lpips_alex"]) == 3 and len(item["per_frame"]["psnr"]) == 17
    (summary,) = results["summary"]
    assert summary["fvd_clips"] == 4 and summary["fvd_full_clips"] == 2 and summary["metrics"]["fvd_full"] >= 0
    assert set(results["environment"]["weights_sha256"]) == {"vgg16", "alexnet", "dists", "i3d"}


def test_a_video_file_and_a_folder_of_frames_are_one_clip(clips, tmp_path):
    """Lossless RGB in a video file, read through the video reader, gives the very same numbers."""
    _, clip = clips
    path = tmp_path / "original.mkv"
    film(path, clip, codec="ffv1", pixels="bgr0")
    results = evaluate(settings(clips, tmp_path, real_dir=str(path), skip_metrics=True), "video")
    assert results["items"][0]["metrics"]["psnr"] == pytest.approx(metrics.psnr(clip, noisy(clip, 10)), abs=0.01)
    assert "skipped by SKIP_METRICS" in results["unavailable"]["ssim"]


def test_ten_bit_video_is_read_as_eight_bits(clips, tmp_path):
    _, clip = clips
    raw = tmp_path / "clip.rgb"
    raw.write_bytes(clip.tobytes())
    path = tmp_path / "ten.mkv"
    subprocess.run([anchors.ffmpeg(), "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x64", "-r", "24",
                    "-i", str(raw), "-pix_fmt", "yuv444p10le", "-c:v", "libx265", "-x265-params",
                    "lossless=1:log-level=error", str(path)], check=True)
    results = evaluate(settings(clips, tmp_path, fake_dir=str(path), skip_metrics=True), "video")
    assert float(results["items"][0]["metrics"]["psnr"]) > 35


def test_grey_and_sixteen_bit_pictures_are_read_as_rgb(tmp_path):
    grey = photograph(48, 48)[..., 0]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    Image.fromarray(grey).save(tmp_path / "a" / "p.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "b" / "p.png")
    results = evaluate(EvalConfig(real_dir=str(tmp_path / "a"), fake_dir=str(tmp_path / "b"), metrics=QUICK,
                                  out_dir=str(tmp_path / "out")), "image")
    assert results["items"][0]["metrics"]["psnr"] == "inf" and results["items"][0]["frames"] == 1


def test_folders_of_pictures_pair_by_name_and_share_one_file(tmp_path):
    for name, size in (("x", (40, 60)), ("y", (80, 60))):
        picture = photograph(*size)
        media.write_image(tmp_path / "real" / f"{name}.png", picture)
        media.write_image(tmp_path / "fake" / f"{name}.webp", noisy(picture, 6))
    (tmp_path / "all.bin").write_bytes(bytes(900))
    results = evaluate(EvalConfig(real_dir=str(tmp_path / "real"), fake_dir=str(tmp_path / "fake"), anchors="jpeg,webp",
                                  bitstream=str(tmp_path / "all.bin"), out_dir=str(tmp_path / "out"), name="ours",
                                  work_dir=str(tmp_path / "work"), anchor_rates="1,3", metrics=QUICK), "image")
    ours = [item for item in results["items"] if item["codec"] == "ours"]
    assert [item["bytes"] for item in ours] == [300, 600] and ours[0]["bpp"] == ours[1]["bpp"]
    assert {item["codec"] for item in results["items"]} == {"ours", "jpeg", "webp"}
    assert results["images"] and results["items"][0]["kB_per_s"] is None
    (tmp_path / "fake" / "y.webp").unlink()
    with pytest.raises(VovError, match="lacks y"):
        evaluate(EvalConfig(real_dir=str(tmp_path / "real"), fake_dir=str(tmp_path / "fake"),
                            out_dir=str(tmp_path / "out2")), "image")


def test_anchors_are_at_our_size_and_better_than_noise(clips, tmp_path):
    folder, _ = clips
    results = evaluate(settings(clips, tmp_path, bitstream=str(folder / "x.vov.bin"), anchors="x264=veryfast,svtav1=10",
                                anchor_rates="1,3", frame_step=3), "video")
    anchors = [item for item in results["items"] if item["codec"] != "decoded"]
    assert {item["codec"] for item in anchors} == {"x264", "svtav1"}
    assert all(item["rate_source"] == "elementary stream" and item["command"] for item in anchors)
    assert any(item["bytes"] <= 777 for item in anchors)
    assert {row["codec"] for row in results["bd"]} <= {"svtav1"} and results["environment"]["ffmpeg"]


def test_explicit_latents_come_from_the_usual_model_or_the_one_that_is_named(clips, tiny_wan, tmp_path):
    results = evaluate(settings(clips, tmp_path, anchors="explicit", anchor_bytes="500,1200", skip_metrics=True,
                                model_id=str(tiny_wan)), "video")
    points = [item for item in results["items"] if item["codec"] == "explicit"]
    assert [item["bytes"] for item in points] == [pytest.approx(500, rel=0.1), pytest.approx(1200, rel=0.1)]
    files = sorted((tmp_path / "work" / "anchors" / "original" / "explicit").glob("*.vlq"))
    assert sorted(f.stat().st_size for f in files) == sorted(item["bytes"] for item in points)
    with pytest.raises(VovError, match=r"no weights of Wan-AI/Wan2\.1-T2V-1\.3B-Diffusers"):
        evaluate(settings(clips, tmp_path, anchors="explicit", anchor_bytes="500", skip_metrics=True,
                          cache_dir=str(tmp_path), out_dir=str(tmp_path / "other")), "video")


@pytest.fixture(scope="module")
def two_files(clips, tiny_wan, tmp_path_factory):
    """A folder with coded/one.vov and coded/two.vov of the tiny model at 32×48, θ at random; real/ has the originals.
    """
    folder = tmp_path_factory.mktemp("coded")
    backbone = WanBackbone.load(str(tiny_wan), "", "cpu", "float32")
    fit = FitConfig(width=48, height=32, theta_length=64, last_k=2, decode_steps=1, resize="stretch")
    header = header_of(backbone, fit, 5, 24.0)
    for seed, name in enumerate(("one", "two")):
        symbols = np.random.default_rng(seed).integers(-2, 3, 64).astype(np.int32)
        bitstream.write(folder / "coded" / f"{name}.vov", bitstream.Bitstream(
            header, (bitstream.Item("a face", 96, 64),), symbols))
        media.write_frames(folder / "real" / name, clips[1][:5])
    return folder


@pytest.fixture
def loads(monkeypatch):
    """The arguments of every load of a model."""
    found, load = [], WanBackbone.load
    monkeypatch.setattr(WanBackbone, "load", lambda *given: found.append(given) or load(*given))
    return found


def test_the_model_is_loaded_once_for_all_files_and_explicit_points(two_files, loads, tiny_wan, tmp_path):
    results = evaluate(EvalConfig(
        real_dir=str(two_files / "real"), fake_dir=str(two_files / "coded"), anchors="explicit,x264=veryfast",
        anchor_rates="2", skip_metrics=True, skip_fvd=True, report_video=False, work_dir=str(tmp_path / "work"),
        out_dir=str(tmp_path / "out"), cache_dir=str(tiny_wan.parent)), "video")
    assert [arguments[0] for arguments in loads] == ["tiny-wan"]
    assert [(item["clip"], item["codec"]) for item in results["items"]] == [
        ("one", "coded"), ("two", "coded"), ("one", "explicit"), ("one", "x264"), ("two", "explicit"), ("two", "x264")]
    assert all(item["bytes_by_part"] for item in results["items"][:2])
    assert results["items"][0]["metrics"]["psnr"] != results["items"][1]["metrics"]["psnr"]


def test_a_video_of_many_chunks_is_evaluated_as_what_it_decodes_to(tiny_wan, tmp_path):
    media.write_frames(tmp_path / "real", panning(7, 32, 48))
    file = encode_film(tiny_wan, tmp_path / "real", tmp_path / "run", width=48, steps=2, score="likelihood",
                       bytes_per_frame=20.0, caption="a face", name="clip")
    results = evaluate(EvalConfig(
        real_dir=str(tmp_path / "real"), fake_dir=str(file), skip_metrics=True, skip_fvd=True, report_video=False,
        work_dir=str(tmp_path / "work"), out_dir=str(tmp_path / "out"), cache_dir=str(tiny_wan.parent)), "video")
    (item,) = results["items"]
    assert item["frames"] == 7 and item["bytes"] == file.stat().st_size
    expected = json.loads((tmp_path / "run" / "result.json").read_text())["psnr"]
    assert item["metrics"]["psnr"] == pytest.approx(expected, abs=1e-6)


def test_a_file_that_does_not_match_its_original_is_refused_before_a_model_is_loaded(two_files, loads, clips, tmp_path):
    one = str(two_files / "coded" / "one.vov")
    with pytest.raises(VovError, match="original has 7 frames, the reproduction 5; set `frames`=5"):
        evaluate(settings(clips, tmp_path, fake_dir=one), "video")
    media.write_frames(tmp_path / "small", panning(5, 32, 48))
    with pytest.raises(VovError, match="original is 48×32, the reproduction 96×64"):
        evaluate(settings(clips, tmp_path, real_dir=str(tmp_path / "small"), fake_dir=one), "video")
    assert not loads


def test_num_frames_compares_the_first_frames(clips, tmp_path):
    _, clip = clips
    results = evaluate(settings(clips, tmp_path, num_frames=3, skip_metrics=True), "video")
    assert results["items"][0]["frames"] == 3
    expected = metrics.psnr(clip[:3], noisy(clip, 10)[:3])
    assert results["items"][0]["metrics"]["psnr"] == pytest.approx(expected, abs=1e-9)


def test_the_recorded_command_repeats_the_run(clips, tmp_path):
    results = evaluate(settings(clips, tmp_path, skip_metrics=True, name="it's mine", num_frames=3), "video")
    command = results["command"].replace(str(tmp_path / "results"), str(tmp_path / "again"))
    done = subprocess.run(["bash", "-c", command], cwd=REPO, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "again" / "results.json").read_text())
    assert again["items"] == json.loads((tmp_path / "results" / "results.json").read_text())["items"]
    assert again["config"] == results["config"] | {"out_dir": str(tmp_path / "again")}


def test_the_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        EvalConfig().name = "x"


@pytest.mark.slow
def test_the_paper_s_table(tmp_path):
    """PSNR within 0.02 dB and MS-SSIM (every 8th frame) within 0.002 of what was measured before."""
    folder = Path(os.environ.get("MEDIA") or REPO.parent / "shared" / "media")
    if not folder.is_dir():
        pytest.skip("needs the test media: set MEDIA")
    results = evaluate(EvalConfig(
        manifest=str(REPO / "video/eval/paper_manifest.csv"), media_dir=str(folder), skip_fvd=True, frame_step=8,
        metrics=QUICK, out_dir=str(tmp_path), report_video=False), "video")
    expected = {  # (clip, bpp): PSNR, MS-SSIM
        ("Beauty", 0.010346): (26.44, 0.855), ("Beauty", 0.010655): (29.71, 0.907), ("Beauty", 0.0099): (30.27, 0.923),
        ("Beauty", 0.01052): (36.64, 0.963), ("Beauty", 0.01489): (37.11, 0.969),
        ("BasketballDrive", 0.013290): (17.40, 0.494), ("BasketballDrive", 0.013599): (23.07, 0.824),
        ("BasketballDrive", 0.01115): (23.96, 0.833), ("BasketballDrive", 0.01259): (29.86, 0.926),
        ("BasketballDrive", 0.01462): (30.19, 0.942)}
    found = {(item["clip"], item["bpp"]): item["metrics"] for item in results["items"]}
    assert len(found) == 14
    for key, (psnr, ms_ssim) in expected.items():
        assert found[key]["psnr"] == pytest.approx(psnr, abs=0.02), key
        assert found[key]["ms_ssim"] == pytest.approx(ms_ssim, abs=0.002), key
