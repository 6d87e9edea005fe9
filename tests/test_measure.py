"""The measures of a pair of clips: any size, any order, in fixed memory."""


import numpy as np
import pytest

from tests.clips import noisy, panning
from tests.evaluation import Counted, Frames
from vov import metrics
from vov.evaluation.catalogue import only
from vov.evaluation.measure import Suite


def test_odd_sizes_and_single_frames_have_defined_values(tmp_path):
    clip = panning(1, 33, 47)
    measured = Suite(skipped=only("ssim", "ms_ssim", "warp")).measure(Frames(clip), Frames(noisy(clip, 5)), 1)
    assert {"psnr", "ssim", "ms_ssim"} <= set(measured.values)
    assert measured.unavailable["flicker"] == measured.unavailable["warp"] == "needs at least 2 frames"
    tiny = Suite(skipped=only("ssim", "ms_ssim", "warp")).measure(Frames(clip[:, :9, :9]), Frames(clip[:, :9, :9]), 1)
    assert "at least 11×11" in tiny.unavailable["ms_ssim"] and tiny.values["psnr"] == float("inf")


def test_batches_and_the_order_of_clips_do_not_change_a_value(monkeypatch):
    clip = panning(7, 48, 64)
    once = Suite(skipped=only("ssim", "ms_ssim", "warp")).measure(Frames(clip), Frames(noisy(clip, 5)), 7)
    monkeypatch.setattr(metrics, "BATCH_PIXELS", 2 * 48 * 64)
    suite = Suite(skipped=only("ssim", "ms_ssim", "warp"))
    suite.measure(Frames(clip), Frames(noisy(clip, 9)), 7)  # fills the cache of flows
    again = suite.measure(Frames(clip), Frames(noisy(clip, 5)), 7)
    assert once.values.keys() == again.values.keys()
    for name, value in once.values.items():
        assert again.values[name] == pytest.approx(value, abs=1e-6), name


def test_frames_stream_by():
    """Never more than two batches of frames are alive, whatever the length of the clip."""
    counted = Counted()

    class Source:
        path = "stream"

        def __iter__(self):
            return counted.frames(60, 600, 1000)

    Suite(skipped=only()).measure(Source(), (np.zeros((600, 1000, 3), np.uint8) for _ in range(60)), 60)
    assert counted.most <= 2 * metrics.batch_length(600, 1000) + 2
