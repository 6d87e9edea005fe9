"""All targets, in the order in which a campaign tries them."""

from __future__ import annotations

from tests.fuzzing.judge import Target


def all_targets() -> list[Target]:
    """The cheap ones first."""
    from tests.fuzzing import entries, files, sequences, settings, texts, weights

    return [*texts.TARGETS, *settings.TARGETS, *weights.TARGETS, *files.TARGETS, *sequences.TARGETS, *entries.TARGETS]
