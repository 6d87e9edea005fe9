"""Bjøntegaard deltas between rate–distortion curves.

BD-rate is the average difference in rate at equal quality, in per cent (negative: fewer bytes); BD-metric the average
difference in quality at equal rate, in the metric's unit. Both integrate over the range that the curves share, on a
logarithmic rate axis (Bjøntegaard, VCEG-M33), with PCHIP interpolation, which two points suffice for, by the
`bjontegaard` package (Herglotz et al. 2022/2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vov.evaluation.catalogue import METRICS
from vov.evaluation.perceptual import Unavailable

Curve = Sequence[tuple[float, float]]  # (rate, value)


def clean(curve: Curve, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """(rates, values as "higher is better"), by rate, without points that cost more and are no better."""
    sign = -1.0 if METRICS[metric].lower else 1.0
    kept: list[tuple[float, float]] = []
    for rate, value in sorted((r, sign * v) for r, v in curve if np.isfinite(v) and r > 0):
        if not kept or value > kept[-1][1]:
            kept.append((rate, value))
    rates, values = zip(*kept, strict=True) if kept else ((), ())
    return np.array(rates), np.array(values)


def _checked(anchor: Curve, test: Curve, metric: str) -> tuple[np.ndarray, ...]:
    a_rate, a_value = clean(anchor, metric)
    t_rate, t_value = clean(test, metric)
    if len(a_rate) < 2 or len(t_rate) < 2:
        raise Unavailable(f"a Bjøntegaard delta needs two rising points on each curve, not {len(a_rate)} and "
                          f"{len(t_rate)}")
    return a_rate, a_value, t_rate, t_value


def bd_rate(anchor: Curve, test: Curve, metric: str = "psnr") -> float:
    """Per cent of rate that `test` needs more (+) or less (−) than `anchor` at equal quality.

    Raises Unavailable when a curve has fewer than two points or the curves share no range of quality.
    """
    import bjontegaard

    a_rate, a_value, t_rate, t_value = _checked(anchor, test, metric)
    if min(a_value[-1], t_value[-1]) <= max(a_value[0], t_value[0]):
        raise Unavailable("the curves share no range of quality")
    return float(bjontegaard.bd_rate(a_rate, a_value, t_rate, t_value, method="pchip",
                                     require_matching_points=False, min_overlap=0))


def bd_metric(anchor: Curve, test: Curve, metric: str = "psnr") -> float:
    """Average value of `test` minus that of `anchor` at equal rate, in the metric's unit and sense.

    Raises Unavailable when a curve has fewer than two points or the curves share no range of rates.
    """
    import bjontegaard

    a_rate, a_value, t_rate, t_value = _checked(anchor, test, metric)
    if min(a_rate[-1], t_rate[-1]) <= max(a_rate[0], t_rate[0]):
        raise Unavailable("the curves share no range of rates")
    sign = -1.0 if METRICS[metric].lower else 1.0
    return sign * float(bjontegaard.bd_psnr(a_rate, a_value, t_rate, t_value, method="pchip",
                                            require_matching_points=False, min_overlap=0))
