"""Curves, smoothed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def moving_average(values: Sequence[float], reach: int) -> list[float]:
    """Each value averaged with up to ``reach`` neighbours on either side; it does not lag behind.

    Near the start as many are taken after as before, so that a steep beginning is not flattened.
    """
    sums = list(accumulate(values, initial=0.0))
    averages = []
    for place in range(len(values)):
        start, end = max(0, place - reach), min(len(values), place + min(reach, place) + 1)
        averages.append((sums[end] - sums[start]) / (end - start))
    return averages
