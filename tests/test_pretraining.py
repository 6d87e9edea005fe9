"""The embedded models' training: optimiser, packs, crops, the VAEs' forward, both tasks of nano-video, a dry run."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from models.pretraining import __main__ as command
from models.pretraining import bank as banks
from models.pretraining import dit, dit_forward, loop, pack, parts, vae, vae_forward
from models.pretraining.muon import Muon, orthogonalise
from vov import VovError, media

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-3
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5 and values.max() < 1.3


def test_a_row_without_gradient_is_not_updated():
    matrices = torch.randn(1, 8, 20, generator=torch.Generator().manual_seed(1))
    matrices[:, 3] = 0
    assert orthogonalise(matrices)[0, 3].abs().max() == 0


def optimiser_of(model: nn.Module) -> Muon:
    return Muon(model, lambda _, p: p.ndim >= 2, lr=0.05, adam_lr=0.01)


def test_muon_fits_a_linear_map():
    torch.manual_seed(0)
    model, truth = nn.Linear(12, 6), nn.Linear(12, 6)
    optimiser, x = optimiser_of(model), torch.randn(64, 12)
    with torch.no_grad():
        target = truth(x)
    for step in range(200):
        optimiser.set_factor(1 - step / 200)
        optimiser.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 1e-3


def test_a_gradient_that_is_not_finite_changes_nothing():
    model = nn.Linear(4, 4)
    before = [p.detach().clone() for p in model.parameters()]
    optimiser = optimiser_of(model)
    (model(torch.full((1, 4), float("inf"))).sum()).backward()
    optimiser.step()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A pack of 40 stills of one source, each of its own grey level, and one clip whose frames brighten steadily."""
    folder = tmp_path_factory.mktemp("media")
    lines = []
    for k in range(40):
        path = folder / "made" / f"{k:02d}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((120, 150, 3), 40 + 4 * k, np.uint8)).save(path)
        lines.append(f"made/{path.name}\ta grey picture number {k}")
    frames = np.stack([np.full((120, 160, 3), 30 + 2 * k, np.uint8) for k in range(100)])
    media.write_video(folder / "made" / "clip.mp4", frames, 25.0)
    lines.append("made/clip.mp4\ta brightening clip")
    (folder / "captions_more.tsv").write_text("\n".join(lines))
    pack.prepare(folder, folder / "pack")
    return folder / "pack"


def test_a_twentieth_of_every_source_is_held_out(packed):
    items = pack.read_index(packed)
    stills = [i for i in items if "span" in i]
    assert [i["path"] for i in stills if i["held_out"]] == ["made/19.png", "made/39.png"]
    assert items[-1]["frames"] == 100 and items[-1]["held_from"] == 83  # 17 frames, the fewest worth measuring


def test_training_never_draws_what_is_held_out(packed):
    train, held = banks.Bank(packed, "cpu"), banks.Bank(packed, "cpu", held_out=True)
    grey = lambda atlas: set(atlas.pixels[:, 1].unique().tolist())  # noqa: E731
    assert not grey(train.stills) & grey(held.stills)
    assert len(train.clips.pixels) and max(grey(train.clips)) < min(grey(held.clips)) + 1  # the codec may be one off
    assert train.captions == held.captions  # one numbering


def test_a_crop_is_the_picture_itself():
    picture = np.random.default_rng(0).integers(0, 256, (3, 20, 30, 3), np.uint8)
    atlas = banks.Atlas()
    atlas.add([np.zeros((1, 5, 5, 3), np.uint8)], [(0, 1)], 1, 1.0)
    atlas.add([picture], [(0, 3)], 2, 1.0)
    atlas.finish("cpu")
    got = atlas.crop(torch.tensor([1]), torch.tensor([[2, 0]]), torch.tensor([4]), torch.tensor([7]), (10, 12))
    assert np.array_equal(got[0].numpy(), picture[[2, 0], 4:14, 7:19])
    assert atlas.chances(3, 10, 12).tolist() == [0, 1]
    with pytest.raises(VovError, match="no packed media hold 4 frames of 12×10"):
        atlas.chances(4, 10, 12)


def test_real_clips_keep_the_order_of_their_frames(packed):
    x, caption = banks.Bank(packed, "cpu").draw_clips(6, 9, (64, 64))
    steps = x.mean((1, 3, 4)).diff(dim=1)
    assert ((steps > 0).all(1) | (steps < 0).all(1)).all()  # forwards or backwards, never mixed
    assert x.shape == (6, 3, 9, 64, 64) and len(set(caption.tolist())) == 1


@pytest.mark.parametrize(("family", "frames"), [("video", 1), ("video", 5), ("video", 9), ("image", 1)])
def test_training_forward_equals_the_stock_vae(family, frames):
    torch.manual_seed(0)
    model, x = parts.new_vae(family).eval(), torch.rand(1, 3, frames, 32, 48) * 2 - 1
    with torch.no_grad():
        z = model.encode(x).latent_dist.mode()
        assert torch.allclose(vae_forward.encode(model, x), z, atol=1e-5)
        assert torch.allclose(vae_forward.decode(model, z).clamp(-1, 1), model.decode(z).sample, atol=1e-5)


def small_vae():
    torch.manual_seed(0)
    model = parts.new_vae("video")
    vae.set_posterior(model)
    return model


def steps(model, count: int) -> list[float]:
    x = torch.rand(2, 3, 5, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    x = nn.functional.avg_pool3d(x, (1, 9, 9), 1, (0, 4, 4)) * 4  # smooth: noise cannot be learned
    step, generator = vae.Step(model, Muon(model, vae.is_matrix, 0.02, 1e-3), 0.5, "cpu"), torch.Generator()
    return [float(step(x, generator.manual_seed(3))[0].mean()) for _ in range(count)]


def test_vae_steps_lower_the_error():
    errors = steps(small_vae(), 8)
    assert errors[-1] < 0.8 * errors[0]


def test_training_the_decoder_alone_leaves_the_latents():
    model = small_vae()
    for part in (model.encoder, model.quant_conv):
        part.requires_grad_(False)
    x = torch.rand(1, 3, 5, 32, 32) * 2 - 1
    with torch.no_grad():
        before, decoded = vae_forward.encode(model, x), vae_forward.decode(model, vae_forward.encode(model, x))
    steps(model, 1)
    with torch.no_grad():
        assert torch.equal(vae_forward.encode(model, x), before)
        assert not torch.equal(vae_forward.decode(model, before), decoded)


def test_another_basis_of_the_latents_changes_no_picture():
    model, x = small_vae(), torch.rand(1, 3, 5, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    basis = torch.randn(64, 64, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 4 * torch.eye(64)
    with torch.no_grad():
        z = vae_forward.encode(model, x)
        picture = vae_forward.decode(model, z)
        vae.change_basis(model, basis)
        moved = vae_forward.encode(model, x)
        assert torch.allclose(moved, torch.einsum("ij,bj...->bi...", basis.float(), z), atol=1e-3)
        assert torch.allclose(vae_forward.decode(model, moved), picture, atol=1e-3)


def test_dead_channels_are_cut_out_and_the_picture_stays():
    model, x = small_vae(), torch.rand(1, 3, 5, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.no_grad():
        model.quant_conv.weight[[3, 40]] = 0
        model.quant_conv.bias[[3, 40]] = 0  # with another constant the borders of the picture would change a little
        model.post_quant_conv.bias.zero_()
        z = vae_forward.encode(model, x)
        cut = vae.without_dead_channels(model, [0.0 if k in (3, 40) else 1.0 for k in range(64)])
        left = vae_forward.encode(cut, x)
        assert cut.config.z_dim == 62 and len(cut.config.latents_std) == 62
        assert torch.allclose(left, z[:, [k for k in range(64) if k not in (3, 40)]], atol=1e-4)
        assert torch.allclose(vae_forward.decode(cut, left), vae_forward.decode(model, z), atol=1e-4)


def test_weak_channels_are_shown_weaker():
    own = [4.0, 1.0, 0.25]
    assert np.allclose(vae.spread_of(own, 0), [np.sqrt(np.mean(np.square(own)))] * 3)
    seen = np.array(own) / vae.spread_of(own, 1.0) * vae.spread_of(own, 0)[0]
    assert np.allclose(seen, [16, 1, 1 / 16])  # variances v² for v


def test_the_decoder_can_be_trained_on_what_coded_noise_gives_back(packed, tmp_path):
    torch.manual_seed(0)
    model, transformer = parts.new_vae("image"), parts.new_transformer("image")
    text = torch.zeros(1, 3, parts.TEXT_DIM), torch.ones(1, 3, dtype=torch.bool)
    restore = dit.restoring("image", model, transformer, text)
    z = torch.randn(2, 48, 1, 4, 4)
    clean = restore(z, torch.randn_like(z), torch.zeros(2, 1, 1, 1, 1))
    assert torch.allclose(clean, z, atol=1e-5)  # t = 0: nothing to restore
    before = [p.clone() for p in model.encoder.parameters()]
    facts = vae.train(model, banks.Bank(packed, "cpu", clips=False), loop.Budget(0, 2),
                      vae.recipe("image", True, True, True), 1, tmp_path / "s.pt", False, restore)
    assert facts["steps"] == 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.encoder.parameters(), strict=True))


def task(family: str, model_latents: torch.Tensor) -> dit.Task:
    ring = type("Ring", (), {"rings": [model_latents[None]], "captions": [torch.zeros(1, len(model_latents)).long()],
                             "shares": [1.0], "variance": model_latents.var()})()
    return dit.Task(family, ring, torch.zeros(1, 32, 64), torch.ones(1, 32, dtype=torch.bool), 400)


def test_half_of_the_samples_have_given_frames_but_never_all():
    task_ = task("video", torch.randn(4, 64, 3, 4, 4))
    generator, chooser = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
    t = torch.cat([task_.draw(generator, chooser)[2] for _ in range(60)])
    given = t == 0
    first_alone = (given == torch.tensor([True, False, False])).all(1)
    assert 0.35 < given.any(1).float().mean() < 0.55 and not given.all(1).any()
    assert 0.2 < first_alone.float().mean() < 0.4 and given[:, 1].any() and given[:, 2].any()
    assert torch.equal(t, t.amax(1, True) * ~given)  # the others share one time


def test_a_picture_has_no_given_frames():
    assert not dit.draw_given(50, 1, torch.Generator().manual_seed(1), "cpu").any()


def test_times_are_spread_evenly():
    t = dit.draw_t("video", 1000, torch.Generator().manual_seed(1), "cpu")
    uneven = torch.rand(1000, generator=torch.Generator().manual_seed(1))
    assert 0.04 < (t == 1).float().mean() < 0.08 and t.min() > 0
    assert t[t < 1].mean() > uneven.mean()  # the shift favours large t


def test_a_given_frame_has_no_part_in_the_loss(monkeypatch):
    def wrong(_family, _model, x, *_):  # off by one everywhere, by a hundred in the first frame
        out = torch.ones_like(x)
        out[:, :, 0] += 99
        return out

    monkeypatch.setattr(dit, "velocity", wrong)
    x0 = torch.zeros(2, 64, 3, 4, 4)
    t = torch.tensor([[0, 0.5, 0.5]] * 2)
    assert task("video", x0).loss(None, x0, x0, t, torch.zeros(2).long()).tolist() == [1, 1]


def test_training_forward_equals_the_stock_video_transformer():
    torch.manual_seed(0)
    small = parts.WAN | {"num_layers": 2, "num_attention_heads": 2, "ffn_dim": 128}
    model = parts.transformer_class("video")(**small).eval()
    x, t, text = torch.randn(2, 64, 3, 8, 12), torch.rand(2, 3), torch.randn(2, 32, 64)
    text[:, 12:] = 0  # padding
    padded = torch.cat([text, torch.zeros(2, dit_forward.WAN_TEXT_LENGTH - 32, 64)], 1)
    with torch.no_grad():
        stock = model(hidden_states=x, timestep=t.repeat_interleave(24, 1) * 1000, encoder_hidden_states=padded,
                      return_dict=False)[0]
        assert torch.allclose(dit_forward.wan(model, x, t, text), stock, atol=1e-5)


def test_training_forward_equals_the_stock_image_transformer():
    torch.manual_seed(0)
    model = parts.transformer_class("image")(**(parts.QWEN | {"num_layers": 2, "num_attention_heads": 2})).eval()
    x, t, text = torch.randn(2, 48, 1, 8, 12), torch.rand(2), torch.randn(2, 9, 64)
    mask = torch.arange(9) < torch.tensor([[5], [9]])
    packed = x.view(2, 48, 4, 2, 6, 2).permute(0, 2, 4, 1, 3, 5).reshape(2, 24, 192)
    with torch.no_grad():
        v = model(hidden_states=packed, timestep=t, encoder_hidden_states=text, encoder_hidden_states_mask=mask,
                  img_shapes=[[(1, 4, 6)]] * 2, return_dict=False)[0]
        v = v.view(2, 4, 6, 48, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(x.shape)
        assert torch.allclose(dit_forward.qwen(model, x, t, text, mask), v, atol=1e-5)


KERNEL = """
import torch
from models.pretraining import norm_kernel, vae_forward
torch.manual_seed(0)
for batch, frames, channels in ((2, 3, 96), (2, 1, 16)):
    x = torch.randn(batch * frames, channels, 5, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    gamma = torch.randn(channels, requires_grad=True)
    want = vae_forward._norm_act(x, gamma, frames)
    got = norm_kernel.NormAct.apply(x, gamma, frames, 2 if frames > 1 else 0)
    weight = torch.randn_like(want)
    pairs = zip(*(torch.autograd.grad((y * weight).sum(), [x, gamma]) for y in (want, got)))
    assert torch.allclose(got, want, atol=1e-5) and all(torch.allclose(a, b, atol=1e-4) for a, b in pairs)
"""


def test_the_norm_kernel_computes_norm_and_activation():
    pytest.importorskip("triton")
    done = subprocess.run([sys.executable, "-c", KERNEL], cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"},
                          text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_spoiled_frame_has_the_error_of_a_gaussian_code():
    x = torch.randn(400, 2, 8, 8, generator=torch.Generator().manual_seed(1)) * torch.tensor([1, 0.02]).view(1, 2, 1, 1)
    spoiled = dit.spoil(x, torch.tensor([1, 4e-4]).view(1, 2, 1, 1), torch.Generator().manual_seed(2))
    changed = (spoiled != x).flatten(1).any(1)
    assert 0.4 < changed.float().mean() < 0.6
    error = (spoiled - x)[changed].square().mean((0, 2, 3))
    assert dit.SPOIL_FROM < error[0] < dit.SPOIL_TO
    assert (spoiled[changed][:, 1] == 0).all()  # less variance than error: lost


def test_budgets_count_steps_or_seconds():
    assert loop.Budget(0, 4).progress(3) == 0.75
    budget = loop.Budget(100)
    budget.begin(50)
    assert 0.5 <= budget.progress(0) < 0.6


def run(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["pretraining", *map(str, arguments)])
    command.main()


@pytest.fixture()
def places(packed, tmp_path) -> list[object]:
    return ["--pack", packed, "--models", tmp_path / "m", "--out", tmp_path / "m", "--state", tmp_path / "s",
            "--device", "cpu", "--tiny", "--family", "image"]


def test_a_killed_vae_run_goes_on_exactly(packed, monkeypatch, tmp_path):
    def train(steps_now: int, resume: bool, state: str) -> nn.Module:
        torch.manual_seed(0)
        model, budget = parts.new_vae("image"), loop.Budget(0, 4)
        if steps_now < 4:  # killed: the state of step 2 is written, the run ends
            monkeypatch.setattr(loop.Budget, "progress", lambda self, step: 2 if step >= steps_now else step / 4)
        vae.train(model, banks.Bank(packed, "cpu", clips=False), budget, vae.recipe("image", False, False, True), 1,
                  tmp_path / state, resume)
        monkeypatch.undo()
        return model

    whole = train(4, False, "a.pt")
    train(2, False, "b.pt")
    resumed = train(4, True, "b.pt")
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_dry_run_makes_a_stock_pipeline(places, tmp_path, monkeypatch, caplog):
    run(monkeypatch, "vae", *places, "--steps", 1)
    run(monkeypatch, "dit", *places, "--steps", 2)
    from diffusers import QwenImagePipeline

    pipe = QwenImagePipeline.from_pretrained(tmp_path / "m" / "nano-image")
    assert pipe.vae.config.z_dim == pipe.transformer.config.out_channels
    facts = json.loads((tmp_path / "m" / "run-dit-image.json").read_text())
    assert facts["steps"] == 2 and facts["seed"] == 20261125
    caplog.set_level(logging.INFO)
    run(monkeypatch, "dit", *places, "--steps", 3, "--resume")
    assert "image      2" in caplog.text  # from the saved state's step on


@pytest.mark.parametrize(("arguments", "message"), [
    (["vae", "--pack", "nowhere"], "PACK=nowhere: no packed media here"),
    (["prepare", "--media", "nowhere"], "none of the captioned media are here"),
    (["vae", "--decoder-only"], "use it with the step vae and --refine"),
])
def test_what_cannot_work_is_said_in_one_line(arguments, message):
    done = subprocess.run([sys.executable, "-m", "models.pretraining", *arguments], cwd=ROOT, text=True,
                          capture_output=True, check=False)
    assert done.returncode and message in done.stderr.splitlines()[-1]
