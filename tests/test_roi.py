"""Regions of interest: what is inside gets better at the same bytes, and masks that do not fit are refused."""

import dataclasses

import numpy as np
import pytest

from tests.test_fit import ball
from vov import VovError, bitstream, media
from vov.bitstream.sequence_code import noise_code
from vov.commands.options import VideoFit
from vov.decoding.decode import Decoder
from vov.decoding.sampling import Sampling
from vov.fitting.encoder import Encoder
from vov.media import FrameSource
from vov.media.original import Original
from vov.media.roi import Region, RoiOptions, masks, with_region
from vov.model.wan import WanBackbone
from vov.noise.items import add_noise, frozen_file
from vov.noise.options import ScalingConfig
from vov.sequence.encode import SequenceEncoder
from vov.sequence.plan import spans
from vov.sequence.settings import SequenceConfig

FIT = VideoFit(config="", width=32, height=32, num_frames=5, theta_length=300, last_k=2, train_steps=60, lr=0.05,
               lr_warmup=2, preview_every=0, loss="latent", decode_steps=1)


def left_half(count=1):
    """A mask [count, 32, 32, 3], white on the left."""
    made = np.zeros((count, 32, 32, 3), np.uint8)
    made[:, :, :16] = 255
    return made


@pytest.fixture(scope="module")
def backbone(tiny_wan):
    return WanBackbone.load(str(tiny_wan), "unused", "cpu")


def sampled(sampling, condition, replay=None):
    """The latents of the first pass."""
    start = sampling.start(0)
    return sampling.latents(start, sampling.velocity(start, condition), replay)[0]


def test_latent_weights_are_averages_of_the_mask_with_mean_one():
    weights = Region(left_half(), 9.0).latent(32, 32, "crop", (1, 16, 2, 4, 4))
    assert weights.shape == (1, 1, 2, 4, 4) and float(weights.mean()) == pytest.approx(1)
    assert float(weights[..., 0].mean() / weights[..., 3].mean()) == pytest.approx(9)
    masks = np.zeros((5, 32, 32, 3), np.uint8)
    masks[1:3] = 255  # half of the frames behind the second latent frame
    weights = Region(masks, 5.0).latent(32, 32, "crop", (1, 16, 2, 4, 4))
    assert float(weights[0, 0, 1].mean() / weights[0, 0, 0].mean()) == pytest.approx(3)


def test_a_fit_is_better_inside_and_worse_outside(backbone, tmp_path):
    errors = {}
    for name, region in (("plain", None), ("roi", Region(left_half(), 50.0))):
        encoder = Encoder(backbone, [Original(ball(), 8.0, "a red ball", "ball", region)], FIT)
        encoder.model.bind(encoder.fit(FIT, tmp_path / name, preview=False).theta)
        latents = sampled(Sampling(backbone, encoder.header(FIT)), encoder.conditions[0])
        error = (latents - encoder.items[0].latents).square()
        errors[name] = (float(error[..., :2].mean()), float(error[..., 2:].mean()))
        assert ("roi" in name) == (encoder.items[0].importance is not None)
        encoder.close()
    assert errors["roi"][0] < errors["plain"][0] and errors["roi"][1] > errors["plain"][1]


def test_noise_is_better_inside_at_the_same_bytes(backbone):
    settings = ScalingConfig(steps=6, scaling_bytes=200, score="likelihood", end_level=0.2)
    errors, sizes = {}, {}
    for name, region in (("plain", None), ("roi", Region(left_half(), 50.0))):
        source = Original(ball(), 8.0, "", "ball", region)
        stream = frozen_file(backbone, [source], dataclasses.replace(FIT, decode_steps=6))
        made, _ = add_noise(stream, backbone, [source], settings)
        with Decoder(made, backbone) as decoder:
            replay = decoder.sampling.replay(decoder.passes[0].code)
            error = (sampled(decoder.sampling, decoder.conditions[0], replay) - backbone.encode(ball())).square()
        errors[name], sizes[name] = float(error[..., :2].mean()), len(bitstream.to_bytes(made))
    assert errors["roi"] < errors["plain"] and sizes["roi"] <= sizes["plain"] * 1.01


def test_a_sequence_spends_its_noise_where_the_masks_of_its_frames_say(backbone, tmp_path):
    frames = ball(9, 32, 32)
    media.write_frames(tmp_path / "clip", frames)
    media.write_frames(tmp_path / "masks", np.repeat(left_half(), 9, 0))
    source = FrameSource(tmp_path / "clip", size=(32, 32), resize="crop")
    plain = SequenceConfig(width=32, height=32, num_frames=5, steps=6, bytes_per_frame=40.0, resize="crop",
                           score="pixel", device="cpu")
    errors = {}
    for name, settings in (("plain", plain), ("roi", dataclasses.replace(plain, roi=str(tmp_path / "masks"),
                                                                         roi_weight=50.0))):
        encoder = SequenceEncoder(backbone, source, spans([0], 9, 5), [""], settings, tmp_path / name)
        code = encoder.run()
        for number, (chunk, before) in enumerate(zip(code.chunks, (None, frames[4]), strict=True)):
            noise = noise_code(encoder.noise, encoder.bits[chunk.chained], code.scenes[0].profile, chunk.scale)
            task, search = encoder.chunks.task(encoder.job(number, before), None), encoder.chunks.search
            error = (search.latents(search.choose(task, noise)) - task.target).square()
            errors[name, number] = float(error[..., :2].mean()), float(error[..., 2:].mean())
    for number in (0, 1):  # one that stands alone, one with a known frame
        (inside, outside), (before, besides) = errors["roi", number], errors["plain", number]
        assert inside < before and outside > besides


def test_masks_of_a_sequence_are_those_of_its_frames(tmp_path):
    media.write_frames(tmp_path, np.stack([np.full((32, 32, 3), 10 * i, np.uint8) for i in range(7)]))
    found = masks(RoiOptions(roi=str(tmp_path)), 7, (32, 32))
    assert found.region(4, 5).masks[:, 0, 0, 0].tolist() == [40, 50, 60, 60, 60]
    assert masks(RoiOptions(), 7, (32, 32)) is None
    with pytest.raises(VovError, match="has 7 masks for 8 frames"):
        masks(RoiOptions(roi=str(tmp_path)), 8, (32, 32))
    with pytest.raises(VovError, match="is 32×32, but the original is 64×32"):
        masks(RoiOptions(roi=str(tmp_path)), 7, (64, 32))


def test_masks_are_found_or_it_is_said_which_are_not(tmp_path):
    media.write_image(tmp_path / "one.png", left_half()[0])
    clip = Original(ball(), 8.0, "", "ball")
    (given,) = with_region([clip], RoiOptions(roi=str(tmp_path / "one.png"), roi_weight=3.0))
    assert given.region.masks.shape == (1, 32, 32, 3) and with_region([clip], RoiOptions()) == [clip]
    with pytest.raises(VovError, match="has 1 masks for 5 frames"):
        with_region([clip], RoiOptions(roi=str(tmp_path)))
    with pytest.raises(VovError, match="no such file or folder"):
        with_region([clip], RoiOptions(roi=str(tmp_path / "none.png")))
    with pytest.raises(VovError, match="is 32×32, but the original is 48×32"):
        with_region([Original(ball(1, 48, 32), 0.0, "", "one.jpg")], RoiOptions(roi=str(tmp_path / "one.png")))
    picture = Original(ball(1, 32, 32), 0.0, "", "one.jpg")
    assert with_region([picture], RoiOptions(roi=str(tmp_path)))[0].region is not None
    with pytest.raises(VovError, match=r"no mask for two\.jpg"):
        with_region([dataclasses.replace(picture, name="two.jpg")], RoiOptions(roi=str(tmp_path)))
