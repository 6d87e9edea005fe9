"""Claims about hostile input: the short form of `bash scripts/fuzz.sh`, the same inputs every time."""

import logging

import pytest

from tests.fuzzing.judge import campaign
from tests.fuzzing.targets import all_targets

CASES = {"whole commands": 4, "sequence against decoder": 12, "header against decoder, video": 12,
         "header against decoder, image": 12, "PEFT folder": 30}


@pytest.mark.parametrize("target", all_targets(), ids=lambda target: target.name)
def test_hostile_input_is_refused_in_one_line_or_harmless(target, tmp_path, caplog):
    caplog.set_level(logging.CRITICAL)
    tally = campaign(target, tmp_path / "empty", CASES.get(target.name, 100), derandomize=True)
    assert not tally.failures, tally.failures[0]
    assert sum(tally.cases.values()) >= min(4, CASES.get(target.name, 100))
