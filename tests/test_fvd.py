"""The Fréchet distance is the textbook one, and the sampling of clips is what it says."""

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from tests.clips import noisy, panning
from tests.metric_weights import I3d, save_i3d
from vov.evaluation import fvd
from vov.evaluation.perceptual import Unavailable


def direct(a, b):
    """Fréchet distance with SciPy's matrix square root."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(ca + cb - 2 * sqrtm(ca @ cb).real)


def features(n, dimensions=24, seed=0, scale=1.0, offset=0.0):
    rng = np.random.default_rng(seed)
    return rng.normal(offset, scale, (n, dimensions)) @ np.random.default_rng(9).normal(size=(dimensions, dimensions))


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """I3D with an eighth of the channels, random weights, through the real TorchScript loader."""
    folder = tmp_path_factory.mktemp("i3d")
    save_i3d(folder, divisor=8)
    return fvd.Detector(folder)


def test_equals_scipy_when_there_are_more_samples_than_dimensions():
    a, b = features(200), features(150, seed=1, scale=1.3, offset=0.4)
    assert fvd.frechet_distance(a, b) == pytest.approx(direct(a, b), rel=1e-9)


def test_equals_scipy_for_few_samples_of_many_dimensions():
    a, b = features(10, 16), features(12, 16, seed=1, offset=0.4)
    assert fvd.frechet_distance(a, b) == pytest.approx(direct(a, b), rel=1e-6)


def test_is_real_and_stable_for_two_clips_of_400_features():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 400)), rng.normal(size=(2, 400))
    value = fvd.frechet_distance(a, b)
    assert np.isfinite(value) and value > 0
    assert fvd.frechet_distance(a + 1e-9, b) == pytest.approx(value, rel=1e-6)
    assert fvd.frechet_distance(b, a) == pytest.approx(value, rel=1e-12)


def test_is_zero_for_equal_sets():
    a = features(40, 400)
    assert fvd.frechet_distance(a, a) == pytest.approx(0, abs=1e-8 * np.square(a).sum())


def test_one_clip_is_too_few():
    with pytest.raises(Unavailable, match="at least 2 clips"):
        fvd.frechet_distance(features(1), features(40))


def test_grid_is_4_by_2_by_5_and_reaches_every_border():
    sampler = fvd.Sampler(81, 480, 832)
    assert len(sampler.corners) == 8 and len(sampler.times) == 5
    assert sampler.times[0] == 0 and sampler.times[-1] == 81 - 16
    assert sampler.corners[0] == (0, 0) and sampler.corners[-1] == (480 - 224, 832 - 224)


def test_sampler_cuts_what_it_says():
    clip = panning(20, 230, 240)
    sampler = fvd.Sampler(20, 230, 240)
    windows = [crops for frame in clip for crops in sampler.add(frame)]
    assert sampler.times == [0, 1, 2, 3, 4] and len(windows) == 5
    for start, crops in zip(sampler.times, windows, strict=True):
        for (top, left), crop in zip(sampler.corners, crops, strict=True):
            assert np.array_equal(crop, clip[start:start + 16, top:top + 224, left:left + 224])
    assert sampler.full().shape == (1, 20, 224, 224, 3)


def test_small_clips_are_scaled_up_and_coinciding_crops_count_once():
    sampler = fvd.Sampler(16, 112, 112)
    windows = [crops for frame in panning(16, 112, 112) for crops in sampler.add(frame)]
    assert [w.shape for w in windows] == [(1, 16, 224, 224, 3)]


def test_a_clip_shorter_than_16_frames_is_not_available():
    with pytest.raises(Unavailable, match="at least 16 frames, not 15"):
        fvd.Sampler(15, 224, 224)


def sampled(detector, clip):
    sampler = fvd.Sampler(len(clip), *clip.shape[1:3])
    return np.concatenate([detector(crops) for frame in clip for crops in sampler.add(frame)])


def test_grows_with_distortion_through_the_real_loader(detector):
    clip = panning(18, 224, 224)
    original = sampled(detector, clip)
    values = [fvd.frechet_distance(original, sampled(detector, noisy(clip, sigma))) for sigma in (0, 8, 16, 32)]
    assert values[0] == pytest.approx(0, abs=1e-9 * np.square(original).sum() + 1e-9)
    assert values == sorted(values) and values[1] > values[0]


def test_features_are_the_module_s_own_logits(detector):
    clips = np.stack([panning(16, 224, 224), panning(16, 224, 224, speed=4)])
    x = torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1
    with torch.inference_mode():
        expected = detector.model(x, rescale=False, resize=False, return_features=True).numpy()
    assert detector(clips) == pytest.approx(expected, abs=1e-5)
    assert detector(clips).shape == (2, 400)


def test_the_true_width_runs(tmp_path):
    save_i3d(tmp_path, divisor=1)
    assert sum(p.numel() for p in I3d().parameters()) > 12e6
    assert np.isfinite(fvd.Detector(tmp_path)(panning(16, 224, 224)[None])).all()


def test_a_file_that_is_no_torchscript_says_so(tmp_path):
    (tmp_path / "i3d_torchscript.pt").write_bytes(b"nonsense")
    with pytest.raises(Unavailable, match=r"not a TorchScript module.*fetch_models"):
        fvd.Detector(tmp_path)
