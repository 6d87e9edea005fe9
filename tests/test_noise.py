"""Claims about the counter-based random numbers."""

import hashlib

import pytest
import torch
from scipy import stats

from vov.runtime.random import Stream, integers, normal, normal_batch, normal_table, philox, uniform, uniform_batch

SEED = 0x0123456789ABCDEF


def words(*values):
    return [torch.tensor([value]) for value in values]


@pytest.mark.parametrize(
    "counter, seed, expected",
    [  # kat_vectors of the Random123 library, "philox4x32 10"
        ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((2**32 - 1,) * 4, 2**64 - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            0x299F31D0A4093822,
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter, seed, expected):
    assert tuple(int(word) for word in philox(words(*counter), seed)) == expected


def test_the_table_is_the_same_everywhere():
    steps = (normal_table() * 4096).to(torch.int16)
    assert torch.equal(steps.float() / 4096, normal_table())
    digest = hashlib.sha256(steps.numpy().tobytes()).hexdigest()
    assert digest == "1ea009ce409dac97d6bd609266910f809c5fb912f78e16bd89145b08174d6fc5"
    assert torch.equal(steps, -steps.flip(0))
    assert abs(float(normal_table().double().square().mean()) - 1) < 3e-5


def test_values_are_frozen():
    found = (normal(SEED, (Stream.CANDIDATE, 3, 5, 7), 8) * 4096).int().tolist()
    assert found == [2585, -516, -626, -6165, -2288, 4298, -3350, -6798]
    assert integers(SEED, Stream.TIMESTEP, 1000, 6).tolist() == [662, 672, 847, 15, 155, 140]
    assert (uniform(SEED, (Stream.THETA, 1), 4) * 2**24).int().tolist() == [8130657, 5151515, 16553466, 5045571]


@pytest.mark.parametrize("draw", [normal, uniform])
@pytest.mark.parametrize("offset", [0, 1, 7, 8, 1001, 2**33 + 5])
def test_an_element_depends_on_its_position_alone(draw, offset):
    whole = draw(SEED, (Stream.FIT, 4, 2), 3000, offset=offset)
    part = draw(SEED, (Stream.FIT, 4, 2), (3, 5), offset=offset + 1234)
    assert torch.equal(whole[1234:1249].reshape(3, 5), part)


def test_a_large_draw_equals_its_parts():
    whole = normal(SEED, Stream.DECODER, 600_000)  # more than one chunk
    assert torch.equal(whole[262_000:263_000], normal(SEED, Stream.DECODER, 1000, offset=262_000))


@pytest.mark.parametrize("single, batch", [(normal, normal_batch), (uniform, uniform_batch)])
def test_a_row_of_a_batch_is_its_own_stream(single, batch):
    ids = torch.tensor([0, 1, 17, 2**32 - 1])
    rows = batch(SEED, (Stream.CANDIDATE, 9, 4), ids, 37, offset=5)
    assert rows.shape == (4, 37)
    for row, j in zip(rows, ids.tolist(), strict=True):
        assert torch.equal(row, single(SEED, (Stream.CANDIDATE, 9, 4, j), 37, offset=5))


def test_a_batch_of_chunks_equals_its_rows():
    rows = normal_batch(SEED, Stream.OTHER, range(1000), 700)
    assert torch.equal(rows[999], normal(SEED, (Stream.OTHER, 999), 700))


def test_ids_may_be_tensors():
    step = torch.tensor(41)
    assert torch.equal(normal(1, (Stream.FIT, step, 3), 9), normal(1, (Stream.FIT, 41, 3), 9))
    with_tensor = normal_batch(1, (Stream.FIT, step), [3, 4], 9)
    assert torch.equal(with_tensor, normal_batch(1, (Stream.FIT, 41), [3, 4], 9))


def test_empty_draws():
    assert normal(0, Stream.FIT, 0).shape == (0,)
    assert normal(0, Stream.FIT, (0, 3)).shape == (0, 3)
    assert normal(0, Stream.FIT, ()).shape == ()
    assert normal_batch(0, Stream.FIT, [], 5).shape == (0, 5)


def test_no_two_streams_are_alike():
    """Neighbours in every field of the counter, and tuples that differ in length alone."""
    streams = [(0,), (1,), (63,), (0, 0), (0, 1), (0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0, 0)]
    streams += [(0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 2**22 - 1, 2**32 - 1, 2**32 - 1)]
    draws = torch.stack([normal(SEED, stream, 50_000) for stream in streams])
    draws = torch.cat([draws, normal(SEED + 1, 0, 50_000)[None], normal(SEED + 2**32, 0, 50_000)[None]])
    correlation = torch.corrcoef(draws) - torch.eye(len(draws))
    assert correlation.abs().max() < 5 / 50_000**0.5


def test_normal_and_uniform_of_one_stream_are_independent():
    level = torch.special.ndtr(normal(SEED, Stream.FIT, 100_000))
    assert abs(float(torch.corrcoef(torch.stack((level, uniform(SEED, Stream.FIT, 100_000))))[0, 1])) < 0.013


def test_normal_is_standard_normal():
    n = 1 << 18
    draw = normal(SEED, Stream.DECODER, n).double()
    assert abs(float(draw.mean())) < 4 / n**0.5
    assert abs(float(draw.var()) - 1) < 4 * (2 / n) ** 0.5
    assert abs(float(stats.skew(draw))) < 4 * (6 / n) ** 0.5
    assert abs(float(stats.kurtosis(draw))) < 4 * (24 / n) ** 0.5
    assert stats.kstest(draw.numpy(), "norm").pvalue > 1e-3
    for lag in (1, 2, 3, 4, 8, 16):  # within a block and across blocks
        assert abs(float((draw[lag:] * draw[:-lag]).mean())) < 4.5 / n**0.5


def test_uniform_and_integers_are_uniform():
    draw = uniform(SEED, Stream.TIMESTEP, 1 << 17)
    assert draw.dtype == torch.float32 and draw.min() >= 0 and draw.max() < 1
    assert stats.kstest(draw.double().numpy(), "uniform").pvalue > 1e-3
    faces = integers(SEED, Stream.OTHER, 6, 60_000)
    assert faces.dtype == torch.int64
    assert stats.chisquare(torch.bincount(faces, minlength=6).numpy()).pvalue > 1e-3
    assert int(integers(SEED, Stream.OTHER, 1, 10).max()) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda: normal(-1, Stream.FIT, 4),
        lambda: normal(2**64, Stream.FIT, 4),
        lambda: normal(0, 64, 4),
        lambda: normal(0, (Stream.FIT, 1, 2, 3, 4), 4),
        lambda: normal(0, (Stream.FIT, 2**22, 0, 0), 4),
        lambda: normal(0, (Stream.FIT, -1), 4),
        lambda: normal(0, Stream.FIT, 4, offset=2**35),
        lambda: integers(0, Stream.FIT, 0, 4),
        lambda: normal_batch(0, Stream.FIT, [-1], 4),
        lambda: normal_batch(0, Stream.FIT, [2**32], 4),
        lambda: normal_batch(0, Stream.FIT, torch.tensor([0.5]), 4),
    ],
)
def test_arguments_out_of_range_are_refused(call):
    with pytest.raises(ValueError):
        call()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_and_cpu_agree_bit_for_bit():
    for draw in (normal, uniform):
        assert torch.equal(draw(SEED, (1, 2, 3), 100_003, "cuda", 5).cpu(), draw(SEED, (1, 2, 3), 100_003, offset=5))
    ids = torch.arange(1024)
    assert torch.equal(normal_batch(7, (2, 0, 0), ids.cuda(), 99).cpu(), normal_batch(7, (2, 0, 0), ids, 99))
