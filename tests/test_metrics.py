"""Each metric equals an independent implementation on real pictures, and does what its definition says."""

import json
import subprocess
import warnings
from types import SimpleNamespace

import lpips
import numpy as np
import piq
import pytest
import pytorch_msssim
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.models import vgg

from tests.clips import noisy, panning, photograph
from tests.metric_weights import save_trunks
from vov import VovError, media, metrics
from vov.evaluation import perceptual, warping
from vov.evaluation.perceptual import Dists, Lpips, Unavailable, find_weights


@pytest.fixture(scope="module")
def pair():
    """Two different frames and a noisy, blurred copy of them."""
    original = np.stack([photograph(240, 336), photograph(240, 336, "coffee")])
    blurred = (original[:, :, 1:].astype(int) + original[:, :, :-1]) // 2
    return original, noisy(np.pad(blurred, ((0, 0), (0, 0), (0, 1), (0, 0)), mode="edge").astype(np.uint8), 8)


@pytest.fixture(scope="module")
def small(pair):
    """A 96×112 part of the first pair, for the networks."""
    return [frames[:1, 60:156, 90:202] for frames in pair]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save_trunks(folder)
    return folder


def tensors(pair):
    """As float32 [2, 3, H, W] in [0, 1]."""
    return [metrics.to_tensor(frames) for frames in pair]


def test_psnr_of_one_frame_equals_scikit_image(pair):
    expected = peak_signal_noise_ratio(pair[0][0], pair[1][0])
    assert metrics.psnr(pair[0][0], pair[1][0]) == pytest.approx(expected, abs=1e-9)


def test_psnr_comes_from_the_mean_mse_not_from_the_mean_psnr(pair):
    a, b = pair[0].copy(), pair[0].copy()
    b[0] = noisy(a[:1], 20)[0]
    b[1] = noisy(a[1:], 2)[0]
    expected = 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))
    assert metrics.psnr(a, b) == pytest.approx(expected, abs=1e-9)
    frames = np.mean([metrics.psnr(x, y) for x, y in zip(a, b, strict=True)])
    assert frames > metrics.psnr(a, b) + 3


def test_psnr_equals_ffmpeg(pair, tmp_path):
    for name, frames in zip("ab", pair, strict=True):
        (tmp_path / f"{name}.rgb").write_bytes(frames.tobytes())
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "336x240", "-i"]
    text = subprocess.run([media.ffmpeg(), *raw, str(tmp_path / "a.rgb"), *raw, str(tmp_path / "b.rgb"), "-lavfi",
                           "[0]format=gbrp[a];[1]format=gbrp[b];[a][b]psnr", "-f", "null", "-"],
                          capture_output=True, text=True, check=True).stderr
    average = float(text.split("average:")[1].split()[0])
    assert metrics.psnr(*pair) == pytest.approx(average, abs=1e-4)


def test_equal_clips_have_infinite_psnr_and_unit_ssim(pair):
    assert metrics.psnr(pair[0], pair[0]) == float("inf")
    assert metrics.ssim(pair[0], pair[0]) == pytest.approx(1, abs=1e-6)
    assert metrics.ms_ssim(pair[0], pair[0]) == pytest.approx(1, abs=1e-6)


def test_ssim_equals_scikit_image_and_piq(pair):
    ours = metrics.per_frame(metrics.ssim_tensors, *pair)
    theirs = [structural_similarity(a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5,
                                    use_sample_covariance=False, data_range=255) for a, b in zip(*pair, strict=True)]
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours == pytest.approx(piq.ssim(*tensors(pair), downsample=False, reduction="none").numpy(), abs=1e-4)


@pytest.mark.parametrize("crop", [(240, 336), (203, 333)])
def test_ms_ssim_equals_piq_at_even_and_odd_sizes(pair, crop):
    a, b = (frames[:, :crop[0], :crop[1]] for frames in pair)
    x, y = tensors((a, b))
    expected = piq.multi_scale_ssim(x, y, reduction="none").numpy()
    # piq pads both sides when one is odd, we pad the odd one: hence not to the last digit there
    tolerance = 1e-4 if crop[0] == 240 else 2e-3
    assert metrics.per_frame(metrics.ms_ssim_tensors, a, b) == pytest.approx(expected, abs=tolerance)


def test_ms_ssim_equals_pytorch_msssim(pair):
    expected = pytorch_msssim.ms_ssim(*tensors(pair), data_range=1, size_average=False).numpy()
    assert metrics.per_frame(metrics.ms_ssim_tensors, *pair) == pytest.approx(expected, abs=1e-4)


def test_ssim_and_ms_ssim_agree_with_libvmaf_on_grey(pair, tmp_path):
    grey = [frames[..., 1] for frames in pair]
    chroma = bytes([128]) * (336 * 240 // 2)
    for name, frames in zip("ab", grey, strict=True):
        (tmp_path / f"{name}.y").write_bytes(b"".join(frame.tobytes() + chroma for frame in frames))
    raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", "336x240", "-i"]
    log = tmp_path / "log.json"
    subprocess.run([media.ffmpeg(), "-v", "error", *raw, str(tmp_path / "b.y"), *raw, str(tmp_path / "a.y"), "-lavfi",
                    "[0][1]libvmaf=log_fmt=json:log_path="
                    f"{log}:feature=name=float_ssim|name=float_ms_ssim", "-f", "null", "-"], check=True)
    pooled = json.loads(log.read_text())["pooled_metrics"]
    a, b = (np.repeat(frames[..., None], 3, -1) for frames in grey)
    assert metrics.ms_ssim(a, b) == pytest.approx(pooled["float_ms_ssim"]["mean"], abs=0.01)
    assert metrics.ssim(a, b) == pytest.approx(pooled["float_ssim"]["mean"], abs=0.01)


@pytest.mark.parametrize(("side", "scales"), [(161, 5), (160, 4), (112, 4), (81, 4), (80, 3), (11, 1), (10, 0)])
def test_small_pictures_get_as_many_scales_as_the_window_fits(side, scales):
    assert metrics.ms_ssim_scales(side, 400) == scales


def test_ms_ssim_of_one_scale_is_ssim_and_below_the_window_it_is_an_error(pair):
    a, b = (frames[:, 100:120, 100:130] for frames in pair)
    assert metrics.ms_ssim(a, b) == pytest.approx(float(np.maximum(metrics.ssim(a, b), 0)), abs=1e-6)
    assert 0 < metrics.ms_ssim(*(frames[:, :112, :192] for frames in pair)) < 1
    with pytest.raises(VovError, match="at least 11×11"):
        metrics.ms_ssim(a[:, :10], b[:, :10])


def test_unequal_shapes_and_types_are_named():
    frame = photograph(64, 64)
    with pytest.raises(VovError, match="must be equal"):
        metrics.psnr(frame, frame[:32])
    with pytest.raises(VovError, match="uint8"):
        metrics.psnr(frame / 255.0, frame / 255.0)


@pytest.mark.parametrize("net", ["vgg", "alex"])
def test_lpips_equals_the_package(small, weights, net):
    ours = Lpips(net, weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net=net, pnet_rand=True, verbose=False).eval()
    trunk = torch.load(find_weights({"vgg": "vgg16", "alex": "alexnet"}[net], weights))
    theirs.net.load_state_dict({k: trunk["features." + k.split(".", 1)[1]] for k in theirs.net.state_dict()})
    x, y = tensors(small)
    with torch.inference_mode():
        assert ours(x, y).numpy() == pytest.approx(theirs(x, y, normalize=True).flatten().numpy(), rel=1e-4)
        assert ours(x, x).abs().max() < 1e-6


@pytest.mark.parametrize("make", [lambda w: Lpips("vgg", w), lambda w: Lpips("alex", w), Dists])
def test_strips_do_not_change_a_network_s_value(small, weights, monkeypatch, make):
    """Odd heights, several pictures and strips of 5 rows against the whole picture at once."""
    metric, (x, y) = make(weights), tensors([frames[:, :95] for frames in small])
    x, y = torch.cat((x, y)), torch.cat((y, y.flip(3)))
    with torch.inference_mode():
        monkeypatch.setattr(perceptual, "STRIP_PIXELS", 2**40)
        whole = metric(x, y)
        monkeypatch.setattr(perceptual, "STRIP_PIXELS", 5 * x.shape[3])
        assert metric(x, y).numpy() == pytest.approx(whole.numpy(), rel=1e-5, abs=1e-6)


def piq_vgg(weights):
    """What torchvision's pretrained vgg16 would give piq, with our weights."""
    features = vgg.make_layers(vgg.cfgs["D"])
    state = torch.load(find_weights("vgg16", weights))
    features.load_state_dict({k.removeprefix("features."): v for k, v in state.items()})
    return lambda **_: SimpleNamespace(features=features)


def test_lpips_vgg_equals_piq(small, weights, monkeypatch):
    ours = Lpips("vgg", weights)
    heads = [head.model[-1].weight for head in ours.heads]
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: heads)
    monkeypatch.setattr(piq.perceptual, "vgg16", piq_vgg(weights))
    x, y = tensors(small)
    with torch.inference_mode():
        theirs = piq.LPIPS(reduction="none")(x, y)
        # the two packages normalise the input with slightly different ImageNet constants
        assert ours(x, y).numpy() == pytest.approx(theirs.flatten().numpy(), rel=0.02)


def test_dists_equals_piq(small, weights, monkeypatch):
    state = torch.load(find_weights("dists", weights))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: state)
    monkeypatch.setattr(piq.perceptual, "vgg16", piq_vgg(weights))
    x, y = tensors(small)
    with torch.inference_mode():
        ours = Dists(weights)
        assert ours(x, y).numpy() == pytest.approx(piq.DISTS(reduction="none")(x, y).numpy(), abs=1e-4)
        assert ours(x, x).abs().max() < 1e-5


def test_missing_weights_say_which_file_and_which_command(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    with pytest.raises(Unavailable, match=r"vgg16-397923af\.pth.*WHAT=metrics.*fetch_models\.sh"):
        Lpips("vgg", tmp_path)


def test_weights_are_found_in_torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "vgg16-397923af.pth"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"not weights")
    assert find_weights("vgg16") == file
    with pytest.raises(Unavailable, match="not readable as PyTorch weights"):
        Lpips("vgg")


def test_pictures_too_small_for_the_networks_are_named(weights):
    x = torch.rand(1, 3, 20, 40)
    with pytest.raises(Unavailable, match="at least 32×32, not 40×20"):
        Lpips("alex", weights)(x, x)


def test_flicker_sees_change_of_the_error_and_not_the_error():
    clip = panning(5, 48, 64)
    assert metrics.flicker(clip, np.clip(clip.astype(int) + 3, 0, 255).astype(np.uint8)) < 0.2
    blinking = clip.astype(int)
    blinking[1::2] += 6
    assert metrics.flicker(np.full_like(clip, 100), (100 + blinking - clip).astype(np.uint8)) == 6
    assert metrics.flicker(clip[:1], clip[:1]) == 0


def test_optical_flow_finds_a_translation():
    clip = panning(2, 128, 160, speed=3)
    x = metrics.to_tensor(clip)
    flow = warping.optical_flow(x[1:], x[:1])[0, :, 20:-20, 20:-20]
    assert flow[0].median() == pytest.approx(3, abs=0.2)
    assert flow[1].median() == pytest.approx(0, abs=0.2)


def test_warping_error_is_small_for_the_original_and_grows_with_flicker():
    clip = panning(2, 128, 160, speed=3)
    x = metrics.to_tensor(clip)
    still = float(255 * (x[1] - x[0]).square().mean().sqrt())
    pairs = [metrics.to_tensor(np.stack([noisy(clip[0], s, 1), noisy(clip[1], s, 2)])) for s in (4, 16)]
    flow = warping.optical_flow(x[1:], x[:1])
    own, little, much = warping.warping_errors(flow, x[1:], x[:1], *((y[1:], y[:1]) for y in pairs))
    assert own < 0.35 * still
    assert own < little < much
