"""A fit aimed at a size or a quality, on the embedded image model."""

import dataclasses

import pytest
import torch
from skimage import data as photographs

from vov import VovError, bitstream
from vov.commands.options import ImageFit
from vov.config import rate_targets
from vov.decoding.decode import decode
from vov.fitting.encoder import Encoder
from vov.fitting.fit import Fit, FitContext
from vov.fitting.rate_control import with_final_step
from vov.media import resize
from vov.media.original import Original
from vov.metrics import psnr
from vov.model.qwen import QwenBackbone

SIDE = 64
BASE = dataclasses.replace(
    ImageFit(), width=SIDE, height=SIDE, rank=4, theta_length=512, last_k=4, lora_preset="qkvo_mlp", decode_steps=1,
    shift=0.0, batch_size=1, accum_step=1, preview_every=0, train_steps=40, lr=0.1, lr_warmup=4, lambda_rate=0.03,
    lambda_rate_warmup=10, step_lr=0.02, save_every=15, checkpointing="none")


@pytest.fixture(scope="module")
def encoder():
    backbone = QwenBackbone.load("nano-image", "unused", "cpu")
    source = Original(resize(photographs.astronaut()[None, :400, :400], SIDE, SIDE), 0.0, "an astronaut", "a.png")
    made = Encoder(backbone, [source], BASE)
    yield made
    made.close()


@pytest.fixture(scope="module")
def start(encoder, tmp_path_factory):
    """θ of a first stage."""
    stage = dataclasses.replace(BASE, lambda_rate=0.0, train_steps=60, lr=0.3)
    return {"unilora_theta_d": encoder.fit(stage, tmp_path_factory.mktemp("stage1"), preview=False).theta}


@pytest.mark.parametrize("asked", [dict(target_bytes=300), dict(target_bytes=500), dict(target_bpp=0.8)])
def test_one_fit_has_the_size_asked_for(encoder, start, tmp_path, asked):
    settings = dataclasses.replace(BASE, **asked)
    fitted = encoder.fit(settings, tmp_path, start, preview=False)
    landed = with_final_step(encoder, settings, fitted)
    size, wanted = len(bitstream.to_bytes(encoder.bitstream(settings, landed))), encoder.wanted_bytes(settings)
    assert (1 - rate_targets.SLACK) * wanted <= size <= wanted
    assert landed.step == pytest.approx(fitted.step, rel=0.1)  # the fit itself came near


def test_a_psnr_is_met_by_the_decoded_file_or_the_most_is_said(encoder, start, tmp_path):
    aimed = dataclasses.replace(BASE, target_bytes=450)
    plain = with_final_step(encoder, aimed, encoder.fit(aimed, tmp_path / "plain", start, preview=False))
    quality = encoder.quality(BASE)
    wanted = round(quality(torch.round(plain.theta / plain.step) * plain.step) - 0.5, 1)
    settings = dataclasses.replace(BASE, target_psnr=wanted)
    landed = with_final_step(encoder, settings, encoder.fit(settings, tmp_path / "aimed", start, preview=False))
    encoder.write(tmp_path / "x.vov", settings, landed)
    encoder.close()  # the decoder puts an adapter of its own into the model
    try:
        (clip,) = decode(tmp_path / "x.vov", encoder.backbone)
    finally:
        encoder.model = Encoder(encoder.backbone, encoder.originals, BASE).model
    assert abs(psnr(encoder.originals[0].frames, clip.frames) - wanted) <= rate_targets.NEAR_DB + 1e-6
    with pytest.raises(VovError, match=r"the most that this fit gives is \d+\.\d\d dB"):
        with_final_step(encoder, dataclasses.replace(BASE, target_psnr=60.0), landed)


def test_a_killed_aimed_fit_goes_on_to_the_bit(encoder, start, tmp_path):
    settings = dataclasses.replace(BASE, target_bytes=400, train_steps=20, save_every=6)

    def job(folder):
        return Fit(encoder.model, encoder.items, settings, folder,
                   FitContext(start=start, rate_control=encoder.rate_control(settings)))

    whole, broken = job(tmp_path / "a").run(), job(tmp_path / "b")
    advance = broken.advance

    def dying(step):
        if step == 15:
            raise KeyboardInterrupt
        return advance(step)

    broken.advance = dying
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = job(tmp_path / "b").run()
    assert torch.equal(whole.theta, again.theta) and whole.step == again.step


@pytest.mark.parametrize(("asked", "said"), [
    (dict(target_bytes=100), "lower `theta_length`"), (dict(target_bytes=5000), "raise `theta_length`"),
    (dict(target_kbps=8.0), "no duration"), (dict(target_bytes=400, target_bpp=1.0), "give one of them")])
def test_what_cannot_be_had_is_refused_before_the_fit(encoder, asked, said):
    with pytest.raises(VovError, match=said) as caught:
        encoder.check(dataclasses.replace(BASE, **asked))
    assert "\n" not in str(caught.value)


def test_a_fit_without_a_rate_term_is_rounded_to_its_target(encoder, start, tmp_path):
    settings = dataclasses.replace(BASE, lambda_rate=0.0, target_bytes=450, train_steps=5)
    landed = with_final_step(encoder, settings, encoder.fit(settings, tmp_path, start, preview=False))
    assert 436 <= len(bitstream.to_bytes(encoder.bitstream(settings, landed))) <= 450
