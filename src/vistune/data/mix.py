"""Which records an epoch shows: each file's passes, or all files equally often."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

import numpy as np


def choose(
    files: Sequence[np.ndarray], passes: Sequence[float], mix: Literal["passes", "uniform"], seed: int
) -> np.ndarray:
    """Record numbers of one epoch, file by file, int64.

    ``uniform`` keeps the epoch as long as the passes make it, and each file gives an equal part of it. What
    is no whole number of passes is a random choice.

    Args:
        files: for each file the numbers of its records, at least one.
        passes: how often each is seen; a file gives one record at least.
    """
    counts = [max(1, round(share * len(records))) for share, records in zip(passes, files, strict=True)]
    if mix == "uniform":
        each, left = divmod(sum(counts), len(files))
        counts = [each + (number < left) for number in range(len(files))]
    parts = []
    for number, (records, count) in enumerate(zip(files, counts, strict=True)):
        whole, rest = divmod(count, len(records))
        chosen = random.Random(f"passes/{seed}/{number}").sample(range(len(records)), rest)
        parts += [np.tile(records, whole), records[sorted(chosen)]]
    return np.concatenate(parts).astype(np.int64)
