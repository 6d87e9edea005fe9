"""ST-LPIPS, SSIMULACRA2, ColorVideoVDP, VMAF and XPSNR: the same values as their own tools give for the same frames."""

import importlib.util
import io
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clips import noisy, panning, photograph
from tests.evaluation import Counted, Frames
from vov import VovError, media, metrics
from vov.evaluation import tools
from vov.evaluation.anchors import ffmpeg
from vov.evaluation.catalogue import METRICS, left_out, only
from vov.evaluation.measure import Suite
from vov.evaluation.perceptual import Unavailable

CLIP = panning(4, 48, 64)
PAIR = CLIP, noisy(CLIP, 8)
STILL = photograph(240, 232)


def needs(module):
    return pytest.mark.skipif(importlib.util.find_spec(module) is None, reason=f"{module}: requirements-metrics.txt")


def measure(name, reference, decoded, **more):
    suite = Suite(skipped=only(name), **more)
    result = suite.measure(Frames(reference), Frames(decoded), len(reference))
    assert name in result.values, result.unavailable
    return result.values[name], result.per_frame.get(name)


@needs("stlpips_pytorch")
@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_st_lpips_is_that_of_its_package(net, monkeypatch):
    for name in ("torchsummary", "IPython"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(summary=None, embed=None))
    from stlpips_pytorch import stlpips

    own = stlpips.LPIPS(net=net, variant="shift_tolerant", verbose=False)
    x, y = (2 * metrics.to_tensor(clip) - 1 for clip in PAIR)
    with torch.no_grad():
        expected = [float(own(x[i:i + 1], y[i:i + 1])) for i in range(len(x))]
    value, frames = measure(f"stlpips_{net}", *PAIR)
    assert frames == pytest.approx(expected, abs=1e-6) and value == pytest.approx(np.mean(expected))
    shifted, _ = measure(f"stlpips_{net}", CLIP[:, :, :-1], CLIP[:, :, 1:])
    assert 0 < shifted < value and measure(f"stlpips_{net}", CLIP, CLIP)[0] == 0  # a pixel's shift is forgiven
    assert "ST-LPIPS" in METRICS[f"stlpips_{net}"].label and METRICS[f"stlpips_{net}"].lower


@needs("ssimulacra2")
def test_ssimulacra2_is_that_of_its_command(tmp_path):
    jpeg = io.BytesIO()
    Image.fromarray(STILL).save(jpeg, "JPEG", quality=50)
    coded = np.array(Image.open(jpeg).convert("RGB"))
    for name, frame in (("a", STILL), ("b", coded)):
        media.write_image(tmp_path / f"{name}.png", frame)
    done = subprocess.run([sys.executable, "-m", "ssimulacra2.cli", str(tmp_path / "a.png"), str(tmp_path / "b.png")],
                          capture_output=True, text=True, check=True)
    value, _ = measure("ssimulacra2", STILL[None], coded[None])
    assert value == pytest.approx(float(re.findall(r"-?\d+\.\d+", done.stdout)[-1]), abs=1e-4) and 50 < value < 85
    assert measure("ssimulacra2", STILL[None], STILL[None])[0] == pytest.approx(100)
    small = Suite(skipped=only("ssimulacra2")).measure(Frames(CLIP), Frames(CLIP), 1)
    assert "at least 225×225, not 64×48" in small.unavailable["ssimulacra2"]


@needs("pycvvdp")
def test_jod_is_that_of_colorvideovdp_on_clips_and_stills():
    import pycvvdp

    own = pycvvdp.cvvdp(display_name="standard_4k", device=torch.device("cpu"), quiet=True)
    suite = Suite(skipped=only("jod"))
    clip = suite.measure(Frames(PAIR[0]), Frames(PAIR[1]), 4)
    assert clip.values["jod"] == pytest.approx(float(own.predict(
        PAIR[1], PAIR[0], dim_order="FHWC", frames_per_second=24.0)[0]), abs=1e-5)
    still = suite.measure(Frames(PAIR[0]), Frames(PAIR[1]), 1)
    alone = float(own.predict(PAIR[1][0], PAIR[0][0], dim_order="HWC")[0])
    assert still.values["jod"] == pytest.approx(alone, abs=1e-5)
    assert clip.values["jod"] < 9.99 and suite.measure(Frames(CLIP), Frames(CLIP), 4).values["jod"] == 10
    assert "standard_4k" in suite.conditions() and "pix/deg" in suite.conditions()
    with pytest.raises(VovError, match="`jod_display`=cinema: no display model"):
        Suite(skipped=only("jod"), display="cinema")


def y4m(path, clip):
    """A clip as BT.709 4:2:0, which is what VMAF and XPSNR are asked about."""
    from vov.evaluation.anchors import TO_YUV

    height, width = clip.shape[1:3]
    subprocess.run([ffmpeg(), "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s",
                    f"{width}x{height}", "-r", "24", "-i", "-", "-vf", TO_YUV, "-pix_fmt", "yuv420p", str(path)],
                   input=clip.tobytes(), check=True)
    return path


def test_vmaf_and_xpsnr_are_those_of_ffmpeg_s_own_filters(tmp_path):
    reference, decoded = y4m(tmp_path / "r.y4m", PAIR[0]), y4m(tmp_path / "d.y4m", PAIR[1])

    def ask(first, second, graph):
        return subprocess.run([ffmpeg(), "-hide_banner", "-nostdin", "-i", str(first), "-i", str(second),
                               "-lavfi", graph, "-f", "null", "-"], capture_output=True, text=True, check=True).stderr

    vmaf = float(re.search(r"VMAF score: (\S+)", ask(decoded, reference, "libvmaf=model=version=vmaf_v0.6.1"))[1])
    xpsnr = float(re.search(r"XPSNR +y: (\S+)", ask(reference, decoded, "xpsnr"))[1])
    result = Suite(skipped=only("vmaf", "xpsnr")).measure(Frames(PAIR[0]), Frames(PAIR[1]), 4)
    assert result.values["vmaf"] == pytest.approx(vmaf, abs=1e-4) and len(result.per_frame["vmaf"]) == 4
    assert result.values["xpsnr"] == pytest.approx(xpsnr, abs=1e-3) and len(result.per_frame["xpsnr"]) == 4
    alone, _ = measure("xpsnr", *PAIR)
    assert alone == result.values["xpsnr"] and measure("xpsnr", CLIP, CLIP)[0] == float("inf")
    odd = Suite(skipped=only("vmaf", "xpsnr")).measure(Frames(CLIP[:, :47, :63]), Frames(PAIR[1][:, :47, :63]), 4)
    assert {"vmaf", "xpsnr"} <= set(odd.values)


def test_frames_stream_through_ffmpeg():
    """A few frames are alive at a time, whatever the length of the clip."""
    counted = Counted()
    pairs = [counted.frames(60, 200, 300) for _ in range(2)]
    values, _ = tools.FfmpegMetrics(["xpsnr", "vmaf"])(*pairs, (300, 200), 60, 24.0)
    assert values["xpsnr"] == float("inf") and counted.most <= 6


def test_vmaf_needs_two_frames_and_all_need_some_pixels():
    still = Suite(skipped=only("vmaf", "xpsnr")).measure(Frames(CLIP), Frames(PAIR[1]), 1)
    assert still.unavailable["vmaf"] == "needs at least 2 frames" and still.values["xpsnr"] > 20
    tiny = Suite(skipped=only("vmaf", "xpsnr")).measure(Frames(CLIP[:, :20, :20]), Frames(CLIP[:, :20, :20]), 4)
    assert "at least 32×32, not 20×20" in tiny.unavailable["vmaf"]


def test_a_missing_package_is_n_a_with_its_cure(monkeypatch):
    for module in ("stlpips_pytorch", "stlpips_pytorch.stlpips", "ssimulacra2", "pycvvdp"):
        monkeypatch.setitem(sys.modules, module, None)
    names = ("stlpips_vgg", "stlpips_alex", "ssimulacra2", "jod")
    suite = Suite(skipped=only(*names))
    for name in names:
        assert re.fullmatch(r"the package \S+ is not installed; install it with: .venv/bin/pip install -r "
                            r"requirements-metrics.txt", suite.unavailable[name])


def test_an_ffmpeg_without_the_filters_is_n_a_with_its_cure(monkeypatch):
    monkeypatch.setattr(tools, "ffmpeg", lambda: "true")
    with pytest.raises(Unavailable, match="no libvmaf filter; unset IMAGEIO_FFMPEG_EXE"):
        tools.FfmpegMetrics(["vmaf", "xpsnr"])


def test_frames_that_can_be_read_only_once_are_said_so():
    result = Suite(skipped=only("xpsnr")).measure(Frames(CLIP), iter(PAIR[1]), 4)
    assert "only once" in result.unavailable["xpsnr"] and result.values["psnr"] > 20


def test_metrics_are_chosen_by_name():
    assert set(only("psnr", "jod")) == set(METRICS) - {"psnr", "psnr_frames", "flicker", "jod"}
    assert left_out("all", False, False, False) == {}
    assert left_out("all", True, True, False).keys() == set(METRICS) - {"psnr", "psnr_frames", "flicker"}
    assert left_out("all", False, False, True)["fvd"] == "needs at least 2 frames"
    with pytest.raises(VovError, match="`metrics`=psnr,psrn: 'psrn' is not one of all, psnr"):
        left_out("psnr,psrn", False, False, False)
