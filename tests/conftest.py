"""Shared by all tests: one thread count, no network, no user caches."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # spinning threads of several processes starve each other

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores, with the processes that they start
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """The folder of both untrained models: what CACHE_DIR names."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def tiny_wan(models):
    """Folder of an untrained 2-layer Wan pipeline."""
    from tests.tiny import build_wan

    return build_wan(models / "tiny-wan")


@pytest.fixture(scope="session")
def tiny_wan22(models):
    """Folder of an untrained 2-layer pipeline of Wan2.2-TI2V-5B's classes and choices."""
    from tests.tiny import build_wan

    return build_wan(models / "tiny-wan22", wan22=True)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tests must neither read nor fill the user's cache of embeddings and latents."""
    if "VOV_CACHE" not in os.environ:
        monkeypatch.setenv("VOV_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def tiny_qwen(models):
    """Folder of an untrained 2-layer Qwen-Image pipeline."""
    from tests.tiny import build_qwen

    return build_qwen(models / "tiny-qwen")


@pytest.fixture(scope="session")
def pipelines(tmp_path_factory):
    """{tree: diffusers' pipeline} of untrained 3-layer models."""
    import copy

    from diffusers import QwenImagePipeline, WanPipeline

    from tests.tiny import build_qwen, build_wan

    folder = tmp_path_factory.mktemp("models")
    found = {"video": WanPipeline.from_pretrained(build_wan(folder / "wan", layers=3)),
             "image": QwenImagePipeline.from_pretrained(build_qwen(folder / "qwen", layers=3))}
    for pipeline in found.values():
        # Weights mapped from a file lie at odd addresses, for which the CPU's matmul rounds differently (5e-7) from
        # what it does for the copies that tests make: bit equality needs the same alignment on both sides.
        pipeline.transformer = copy.deepcopy(pipeline.transformer)
    return found
