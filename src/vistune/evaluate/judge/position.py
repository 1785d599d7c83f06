"""Position bias: what an answer gains from standing first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vistune.evaluate.measure import percentiles, resampled_sums
from vistune.evaluate.outcome import Outcome

Outcomes = Sequence[Outcome]


@dataclass(frozen=True)
class PositionBias:
    """Relative scores of the same answers in both places, in percent.

    Attributes:
        second: the candidate as assistant 2, as LLaVA-Bench has it.
        first: the candidate as assistant 1.
        gain: first - second, percentage points; above 0, the judge favours what it reads first.
        low, high: its 95% interval: a paired bootstrap over questions.
        questions: that have at least one run with both reviews.
    """

    second: float
    first: float
    gain: float
    low: float
    high: float
    questions: int

    @property
    def shown(self) -> bool:
        """The interval leaves out 0."""
        return self.low > 0 or self.high < 0


def position_bias(
    normal: Sequence[Outcomes], swapped: Sequence[Outcomes], name: str = "all"
) -> PositionBias | None:
    """Compare runs with the runs that have the places exchanged, in the same order.

    A review counts where its counterpart in the same run could be read, too; the reviews of one question are
    drawn together. None where there is no such pair.

    Args:
        name: the measure to compare.
    """
    sums: dict[str, np.ndarray] = {}  # question -> candidate, reference; as second, as first [4]
    for ours, theirs in zip(normal, swapped, strict=True):
        second = {outcome.id: outcome.sums[name] for outcome in ours if name in outcome.sums}
        first = {outcome.id: outcome.sums[name] for outcome in theirs if name in outcome.sums}
        for question in second.keys() & first.keys():
            pair = np.array([*second[question], *first[question]])
            sums[question] = sums.get(question, np.zeros(4)) + pair
    if not sums:
        return None
    table = np.stack([sums[question] for question in sorted(sums)])
    values = _ratios(table.sum(0))
    gains = np.diff(_ratios(resampled_sums(table)))[:, 0]
    low, high = percentiles(gains)
    return PositionBias(
        float(values[0]), float(values[1]), float(values[1] - values[0]), low, high, len(table)
    )


def _ratios(sums: np.ndarray) -> np.ndarray:
    """[..., 4] -> [..., 2] in percent."""
    return 100 * sums[..., ::2] / sums[..., 1::2]
