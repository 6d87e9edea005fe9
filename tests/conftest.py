"""Shared by all tests: one thread count, no network, no user caches."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads of several processes starve each other

import pytest
import torch

torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory):
    """Folder of an untrained 2-layer Wan pipeline."""
    from tests.tiny import build_wan

    return build_wan(tmp_path_factory.mktemp("models") / "tiny-wan")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests must neither read nor fill the user's cache of embeddings and latents."""
    if "VOV_CACHE" not in os.environ:
        monkeypatch.setenv("VOV_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_qwen(tmp_path_factory):
    """Folder of an untrained 2-layer Qwen-Image pipeline."""
    from tests.tiny import build_qwen

    return build_qwen(tmp_path_factory.mktemp("models") / "tiny-qwen")
