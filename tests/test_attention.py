"""Attention: a large model never takes a slow kernel in silence."""

import sys
from types import SimpleNamespace

import pytest
import torch

from vov import VovError
from vov.model import attention

FLASH, CUDNN = (int(kind) for kind in (attention.SDPBackend.FLASH_ATTENTION, attention.SDPBackend.CUDNN_ATTENTION))
HOPPER, BLACKWELL, AMPERE = (9, 0), (10, 0), (8, 0)


@pytest.fixture
def machine(monkeypatch):
    """A GPU that is not there: (capability, modules that are installed) → what was put in FlashAttention's place."""
    before, activated = torch._C._get_sdp_priority_order(), []
    monkeypatch.setattr(attention, "_chosen", [])
    monkeypatch.setattr(attention.attention, "list_flash_attention_impls", lambda: ["FA3", "FA4"], raising=False)
    monkeypatch.setattr(attention.attention, "activate_flash_attention_impl", activated.append, raising=False)
    monkeypatch.setattr(attention.attention, "register_flash_attention_impl", lambda name, register_fn: None,
                        raising=False)

    def make(capability, *installed):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(attention, "_installed", lambda name: name in installed)
        return activated

    yield make
    while attention._chosen:
        attention._chosen.pop().__exit__(None, None, None)
    assert torch._C._get_sdp_priority_order() == before


def model(size):
    with torch.device("meta"):
        return torch.nn.Linear(size, size)


@pytest.mark.parametrize(("capability", "installed", "title", "used"), [
    (AMPERE, ["flash_attn.cute"], "", []),
    (HOPPER, [], "cuDNN", []),
    (HOPPER, ["flash_attn_interface"], "FlashAttention 3", ["FA3"]),
    (HOPPER, ["flash_attn_interface", "flash_attn.cute"], "FlashAttention 4", ["FA4-vov"]),
    (BLACKWELL, ["flash_attn_interface"], "cuDNN", []),
    (BLACKWELL, ["flash_attn.cute"], "FlashAttention 4", ["FA4-vov"]),
])
def test_a_large_model_never_takes_flash_attention_2_on_hopper(machine, capability, installed, title, used):
    before, activated = torch._C._get_sdp_priority_order(), machine(capability, *installed)
    gpu = torch.device("cuda")
    assert attention.choose_attention(model(4), gpu) == ""
    assert attention.choose_attention(model(20000), torch.device("cpu")) == ""
    assert torch._C._get_sdp_priority_order() == before
    assert attention.choose_attention(model(20000), gpu) == title
    first = torch._C._get_sdp_priority_order()[0]
    assert first == {"": before[0], "cuDNN": CUDNN}.get(title, FLASH) and activated == used


def test_a_kernel_that_is_asked_for_is_taken_for_any_model(machine):
    activated = machine(HOPPER, "flash_attn.cute")
    gpu = torch.device("cuda")
    for wanted, title, first in (("flash", "FlashAttention 4", FLASH), ("cudnn", "cuDNN", CUDNN)):
        assert attention.choose_attention(model(4), gpu, wanted) == title
        assert torch._C._get_sdp_priority_order()[0] == first and len(attention._chosen) == 1
    assert activated == ["FA4-vov"]


@pytest.mark.parametrize(("wanted", "device", "capability", "says"), [
    ("flash", "cuda", HOPPER, "requirements-hopper"), ("flash", "cpu", HOPPER, "leave `attention` unset"),
    ("cudnn", "cpu", HOPPER, "leave `attention` unset")])
def test_a_kernel_that_cannot_be_had_is_refused_with_the_cure(machine, wanted, device, capability, says):
    machine(capability)
    with pytest.raises(VovError, match=f"`attention`={wanted}.*{says}"):
        attention.choose_attention(model(4), torch.device(device), wanted)


def test_a_package_that_does_not_run_gives_way_to_cudnn(machine, monkeypatch, caplog):
    machine(HOPPER, "flash_attn.cute")
    restored = []
    monkeypatch.setattr(attention, "_trial", lambda: "no such kernel")
    monkeypatch.setattr(attention.attention, "current_flash_attention_impl", lambda: "FA4-vov", raising=False)
    monkeypatch.setattr(attention.attention, "restore_flash_attention_impl", lambda: restored.append(1), raising=False)
    assert attention.choose_attention(model(20000), torch.device("cuda")) == "cuDNN"
    assert torch._C._get_sdp_priority_order()[0] == CUDNN and restored
    assert "FlashAttention 4 does not run here (no such kernel); taking cuDNN" in caplog.text
    with pytest.raises(VovError, match="`attention`=flash"):
        attention.choose_attention(model(20000), torch.device("cuda"), "flash")


def test_a_package_that_is_not_there_is_not_installed():
    assert attention._installed("torch.nn") and not attention._installed("no_such_package.cute")


def test_what_a_newer_flash_attention_returns_on_top_is_dropped(monkeypatch):
    from vov.model import flash4

    given = []
    fake = SimpleNamespace(_flash_attn_fwd=lambda *a, **k: given.append((a, k)) or ("out", "lse", None, None, None),
                           _flash_attn_bwd=lambda *a, **k: ("dq", "dk", "dv", None))
    monkeypatch.setitem(sys.modules, "flash_attn", SimpleNamespace(cute=SimpleNamespace(interface=fake)))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", SimpleNamespace(interface=fake))
    assert flash4._flash_attn_fwd(1, causal=True) == ("out", "lse")
    assert flash4._flash_attn_bwd(1) == ("dq", "dk", "dv")
    whole = torch.arange(24.0)
    odd = whole.as_strided((1, 2, 3, 4), (0, 12, 4, 1))  # as compiled code has it; refused by the package
    flash4._flash_attn_fwd(odd, out=odd)
    for seen in (given[-1][0][0], given[-1][1]["out"]):
        assert seen.stride() == (24, 12, 4, 1) and seen.data_ptr() == whole.data_ptr() and torch.equal(seen, odd)
