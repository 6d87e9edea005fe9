"""Claims of docs/determinism.md: what is equal to the bit, and how close the rest is."""

import re
from contextlib import contextmanager

import numpy as np
import pytest
import torch

from tests.test_fit import CAPTION, ball, settings_for
from tests.test_golden import GOLDEN, load
from vov import bitstream
from vov.adapter.adapt import AdapterSpec
from vov.adapter.adapted import AdaptedModel
from vov.adapter.quantiser import from_symbols, theta_hat
from vov.decoding.decode import Decoder, decode
from vov.decoding.replay import Candidates
from vov.fitting.encoder import Encoder
from vov.media.original import Original
from vov.noise.items import add_noise
from vov.noise.options import ScalingConfig
from vov.runtime.files import REPO
from vov.runtime.random import Stream, normal, normal_batch, uniform


@contextmanager
def threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def with_threads(work, *counts):
    """What work() gives with each number of threads."""
    found = []
    for count in counts:
        with threads(count):
            found.append(work())
    return found


@pytest.fixture(scope="module")
def wan(tiny_wan):
    from vov.model.wan import WanBackbone

    return WanBackbone.load(str(tiny_wan), "", "cpu", "float32")


def test_noise_is_the_same_whatever_the_number_of_threads():
    for work in (lambda: normal(42, Stream.DECODER, (16, 300, 301)), lambda: uniform(7, (Stream.THETA, 1), 1 << 20),
                 lambda: normal_batch(3, (Stream.CANDIDATE, 1, 2), range(500), 1000)):
        one, two = with_threads(work, 1, 2)
        assert torch.equal(one, two)


@pytest.mark.parametrize("path", [path for path in sorted(GOLDEN.glob("*.vov"))
                                  if any(bitstream.read(path).header.index_hash)], ids=lambda path: path.stem)
def test_the_indices_of_a_file_are_found_again(path, tiny_wan, tiny_qwen):
    header = bitstream.read(path).header
    with AdaptedModel(load(path, tiny_wan, tiny_qwen), AdapterSpec.of(header)) as model:
        assert model.projection.hash == header.index_hash


def test_theta_is_read_as_it_was_written():
    theta = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    step = float(np.float32(0.0371))
    symbols = torch.round(torch.clamp(theta / step, -128, 128)).int()
    assert torch.equal(from_symbols(symbols, step), theta_hat(theta, step, "round"))


def test_coded_noise_is_the_same_whatever_the_number_of_threads(wan):
    stream = bitstream.read(GOLDEN / "video_noise.vov")
    with Decoder(stream, wan) as decoder:
        code, size = decoder.passes[0].code, decoder.sampling.start(0).noise.numel()
    candidates = Candidates(code, stream.header.seed, size, 0, "cpu")
    symbols = code.symbols[0, :code.plan[0].sum()]
    one, two = with_threads(lambda: candidates.assemble(code.first, code.plan[0], symbols), 1, 2)
    assert torch.equal(one, two) and float(one.std()) == pytest.approx(1, abs=0.2)


def test_a_fit_ends_in_the_same_bytes(wan, tmp_path):
    def fit(folder):
        settings = settings_for(tmp_path, lambda_rate=0.01, lambda_rate_warmup=4, train_steps=6)
        encoder = Encoder(wan, [Original(ball(), 8.0, CAPTION, "ball")], settings)
        try:
            return bitstream.to_bytes(encoder.bitstream(settings, encoder.fit(settings, folder, preview=False)))
        finally:
            encoder.close()
    assert fit(tmp_path / "a") == fit(tmp_path / "b")


def test_a_search_ends_in_the_same_bytes(wan):
    stream = bitstream.read(GOLDEN / "video_theta.vov")
    source = Original(ball(width=48, height=40), 8.0, CAPTION)
    settings = ScalingConfig(steps=4, score="lookahead", scaling_bytes=60)

    def search():
        return bitstream.to_bytes(add_noise(stream, wan, [source], settings)[0])
    assert search() == search()


@pytest.mark.parametrize("name", ["video_theta", "video_noise"])
def test_frames_are_the_same_in_a_second_decode(name, wan):
    first, second = (decode(GOLDEN / f"{name}.vov", wan)[0].frames for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["video_theta", "video_noise"])
def test_another_number_of_threads_moves_few_values_by_one_level(name, wan):
    one, two = with_threads(lambda: decode(GOLDEN / f"{name}.vov", wan)[0].frames.astype(int), 1, 2)
    difference = np.abs(one - two)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def test_every_test_that_the_page_names_is_there():
    named = re.findall(r"`(test_\w+)`", (REPO / "docs" / "determinism.md").read_text())
    code = "\n".join(path.read_text() for path in (REPO / "tests").glob("test_*.py"))
    assert len(named) >= 9 and all(f"def {name}(" in code for name in named)
