"""Which records each epoch shows: each file's passes, or all files equally often."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

_SHARE, _EPOCH = 1, 2  # what a random number is for; never the order of an epoch, which has none of these


class Mix:
    """Draws the records of any epoch: a pure function of the seed and the epoch's number.

    ``uniform`` keeps an epoch as long as the passes make it, and each file gives an equal part of it. What
    is no whole number of passes is drawn anew in each epoch, from the records that were seen least until
    then. So over the epochs no record of a file is seen more than once more often than another.

    Args:
        files: for each file the numbers of its records, at least one.
        passes: how often each is seen in an epoch; a file gives one record at least.
        shares: the random part of each file that is used at all, the same in every epoch; by default all.

    Attributes:
        records: for each file the numbers of its records that are used, int64.
        counts: how many samples each file gives to an epoch.
    """

    def __init__(
        self,
        files: Sequence[np.ndarray],
        passes: Sequence[float],
        mix: Literal["passes", "uniform"] = "passes",
        seed: int = 0,
        shares: Sequence[float] | None = None,
    ) -> None:
        self._seed = seed
        shares = shares or [1.0] * len(files)
        self.records = [
            self._share(number, file, share)
            for number, (file, share) in enumerate(zip(files, shares, strict=True))
        ]
        pairs = zip(passes, self.records, strict=True)
        self.counts = [max(1, round(often * len(records))) for often, records in pairs]
        if mix == "uniform":
            each, left = divmod(sum(self.counts), len(files))
            self.counts = [each + (number < left) for number in range(len(files))]

    def __len__(self) -> int:
        """Samples of an epoch."""
        return sum(self.counts)

    def epoch(self, number: int) -> np.ndarray:
        """Record numbers of an epoch, counted from 0; file by file, int64."""
        parts = []
        for file, (records, count) in enumerate(zip(self.records, self.counts, strict=True)):
            whole, rest = divmod(count, len(records))
            parts += [np.tile(records, whole), records[self._drawn(file, len(records), rest, number)]]
        return np.concatenate(parts).astype(np.int64)

    def _share(self, number: int, records: np.ndarray, share: float) -> np.ndarray:
        count = max(1, round(share * len(records)))
        if count == len(records):
            return records
        rng = np.random.default_rng([self._seed, number, 0, _SHARE])
        return np.sort(rng.choice(records, count, replace=False))

    def _drawn(self, file: int, size: int, rest: int, epoch: int) -> np.ndarray:
        """Places of the records that are seen once more than the others; the epochs before are drawn, too,
        as they say which were seen least."""
        seen, drawn = np.zeros(size), np.zeros(0, np.int64)
        for number in range(epoch + 1 if rest else 0):
            rng = np.random.default_rng([self._seed, file, number, _EPOCH])
            drawn = np.argsort(seen + rng.random(size), kind="stable")[:rest]
            seen[drawn] += 1
        return np.sort(drawn)
