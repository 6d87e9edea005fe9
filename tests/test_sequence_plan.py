"""Claims about where the cuts are, which frames make which chunk, and what each chunk may cost."""

from itertools import pairwise

import numpy as np
import pytest

from tests.test_fit import ball
from vov import VovError
from vov.bitstream.sequence_code import Packing, Scene, on_grid, payload_bytes
from vov.bitstream.symbols import encode_symbols
from vov.sequence.ledger import Ledger, scale_for
from vov.sequence.plan import Span, spans
from vov.sequence.scenes import detect, scene_starts


@pytest.mark.parametrize(("starts", "count", "size", "key_every", "unit"), [
    ([0], 1, 5, 0, 4), ([0], 23, 5, 0, 4), ([0, 7, 8], 23, 5, 2, 4), ([0, 3], 40, 17, 3, 4), ([0, 2], 5, 1, 0, 1),
    ([0], 85, 17, 0, 4), ([0], 18, 17, 1, 4), ([0, 20], 90, 17, 3, 4)])
def test_chunks_cover_every_frame_once_and_cross_no_cut(starts, count, size, key_every, unit):
    found = spans(starts, count, size, key_every, unit)
    covered = [frame for span in found for frame in range(span.first, span.first + span.frames)]
    assert covered == list(range(count))
    for span in found:
        assert span.frames <= size - span.chained
        assert max(start for start in starts if start <= span.first) == starts[span.scene]
        assert not (span.chained and span.first in starts)
    if key_every:
        for before, after in pairwise(found):
            assert after.chained or before.scene != after.scene or before.chained or key_every == 1
    for first, after in pairwise(found):
        assert not after.chained or (first.frames - (not first.chained)) % unit == 0  # padding only at the end


def test_chunks_that_follow_each_other_are_about_equally_long():
    assert [span.frames for span in spans([0], 85, 17, unit=4)] == [17, 16, 16, 12, 12, 12]
    assert [span.frames for span in spans([0], 20, 17, unit=4)] == [13, 7]
    for count in range(2, 200):
        lengths = [-(-(span.frames - (not span.chained)) // 4) for span in spans([0], count, 17, unit=4)]
        assert max(lengths) - min(lengths) <= 1
        assert len(lengths) == -(-(count - 1) // 16)


def test_so_are_chunks_that_stand_alone_and_groups_of_them():
    assert [span.frames for span in spans([0], 120, 17, 1, 4)] == [17] * 4 + [13] * 4
    assert [span.frames for span in spans([0], 85, 17, 2, 4)] == [17, 12, 17, 12, 17, 10]
    for count in range(1, 300):
        for key_every, most in ((1, 17), (3, 49)):
            found = spans([0], count, 17, key_every, 4)
            chains = [0]
            for span in found:
                chains += [] if span.chained else [0]
                chains[-1] += span.frames
            chains = chains[1:]
            assert len(chains) == -(-count // most) and max(chains) <= most
            assert max(chains) - min(chains) < 8 and sum(chains) == count
            assert all(span.frames <= 17 - span.chained for span in found)


def test_cuts_are_found_and_none_where_there_is_none(tmp_path):
    frames = np.concatenate([np.repeat(ball(20, 64, 48), 1, 0), 255 - ball(20, 64, 48)])
    assert detect(frames, 40, 5) == [0, 20] and detect(frames[:20], 20, 5) == [0]
    (tmp_path / "cuts.txt").write_text("# first frames\n9\n")
    assert scene_starts(str(tmp_path / "cuts.txt"), (), 16, 3) == [0, 9] and scene_starts("none", (), 16, 3) == [0]
    (tmp_path / "bad.txt").write_text("nine\n")
    with pytest.raises(VovError, match=r"bad.txt, line 1: 'nine' is no frame"):
        scene_starts(str(tmp_path / "bad.txt"), (), 16, 3)


def test_bytes_are_shared_out_by_weight_so_that_a_last_lone_frame_is_a_picture():
    lone = [Span(0, 17, False, 0), Span(17, 1, False, 0)]
    ledger = Ledger(lone, [5, 1], 0, 600 / 18, lambda scenes, chunks: 100, 3,
                    (Packing(9, 512), Packing(9, 512)))
    ledger.open(Scene(2, np.array([255, 255, 255])))
    assert ledger.share() == 500
    ledger.add()
    assert 100 <= ledger.share() <= 200


PROFILE = on_grid(np.array([186] * 11 + [202] * 4 + [211] * 3 + [218, 218, 223, 231, 231, 234, 239, 243, 250, 255]))


def test_a_file_of_one_chunk_meets_any_target_to_three_per_cent():
    def size_of(scenes, chunks):
        return 100 + len(encode_symbols(scenes[0].profile)) + sum(len(chunk.symbols) for chunk in chunks)

    for target in range(500, 3000, 37):
        ledger = Ledger(spans([0], 17, 17), [5], target, 0, size_of, len(PROFILE),
                        (Packing(16, 512), Packing(15, 512)))
        ledger.open(Scene(1, PROFILE))
        ledger.add()
        [scale], [scene] = ledger.scales, ledger.scenes
        found = size_of([scene], []) + payload_bytes(scene.profile, scale, Packing(16, 512))
        assert 0.97 * target <= found <= target
        assert (scene.profile >= PROFILE).all() and np.array_equal(on_grid(scene.profile), scene.profile)


def test_the_scale_meets_a_budget_closely_and_never_exceeds_it():
    profile = np.clip(255 - 5 * np.arange(40), 0, 255)
    for budget in (60, 400, 3000):
        scale = scale_for(profile, Packing(16, 512), budget)
        assert payload_bytes(profile, scale, Packing(16, 512)) <= budget
        assert budget < payload_bytes(profile, scale + 1, Packing(16, 512))
        assert payload_bytes(profile, scale, Packing(16, 512)) > 0.9 * budget


def test_a_scale_reaches_any_budget_that_a_step_of_most_atoms_allows():
    steep = on_grid(np.clip(255 - 8 * np.arange(39), 0, 255))  # the last step costs as much as the eight before it
    packing = Packing(4, 4096)
    assert payload_bytes(steep, scale_for(steep, packing, 6000), packing) > 0.95 * 6000
