"""The difference of two runs, question by question: intervals, tests, verdicts.

Both runs answered the same questions, so what is drawn, swapped or counted is always a question with both its
outcomes. The interval is a paired bootstrap's. The test is McNemar's exact one where a question is right or
wrong; elsewhere the runs' outcomes are swapped at random, question by question, which is what chance would do
if the runs were alike.

A benchmark's headline measure is tested alone. Its other measures are looked at together, and the more there
are, the likelier one of them differs by chance: their p-values are corrected by Holm's method (1979), which
holds however the measures depend on each other. Intervals are for each measure alone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vistune.evaluate.measure import SEED, is_share, percentiles, resampled_sums, sums_of
from vistune.evaluate.outcome import Outcome

LEVEL = 0.05
SWAPS = 9999
_CHUNK = 2**22  # random swaps at a time
_TIE = 1e-9  # differences of ratios that differ by less are equal
NO_DIFFERENCE = "no difference shown at 95%"


@dataclass(frozen=True)
class Difference:
    """One measure of two runs.

    Attributes:
        a, b, difference, low, high: in percent and percentage points; ``difference`` is B - A.
        count: questions that either run counts.
        left_out: questions not counted because the other run has no score of any measure for them.
        better: 1 where more is better, -1 where less is, 0 where neither.
        test: ``mcnemar`` or ``swap``.
        only_a, only_b: questions that count for one run alone; None where questions are not right or wrong.
        p, corrected: two-sided; ``corrected`` by Holm over the measures beside the headline.
    """

    name: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    count: int
    left_out: int
    better: int
    test: str
    only_a: int | None
    only_b: int | None
    p: float
    corrected: float

    @property
    def differs(self) -> bool:
        return self.corrected < LEVEL

    @property
    def winner(self) -> str | None:
        """``A`` or ``B``; None where no difference is shown, or neither direction is better."""
        if not self.differs or not self.better or not self.difference:
            return None
        return "B" if self.difference * self.better > 0 else "A"

    @property
    def verdict(self) -> str:
        if self.winner:
            return f"{self.winner} is better"
        return "they differ" if self.differs else NO_DIFFERENCE


@dataclass(frozen=True)
class _Sums:
    """One measure of both runs: numerators and denominators [questions]."""

    name: str
    a: tuple[np.ndarray, np.ndarray]
    b: tuple[np.ndarray, np.ndarray]
    left_out: int

    @property
    def columns(self) -> list[np.ndarray]:
        return [*self.a, *self.b]


def differences(
    a: Sequence[Outcome],
    b: Sequence[Outcome],
    names: Sequence[str],
    lower: Collection[str] = (),
    neutral: Collection[str] = (),
    headline: str | None = None,
) -> tuple[list[Difference], dict[str, str]]:
    """Compare each measure of ``names`` over the same questions, in the same order.

    Args:
        lower: the measures of which less is better.
        neutral: those of which neither is better.
        headline: the measure that is tested alone; None: all are corrected together.

    Returns:
        The differences, and why each other measure could not be compared.
    """
    taken, dropped = [], {}
    for name in names:
        sums = _paired_sums(a, b, name)
        empty = [run for run, pair in (("A", sums.a), ("B", sums.b)) if not pair[1].sum() > 0]
        if empty:
            dropped[name] = f"counts no common question in {' and '.join(empty)}"
        else:
            taken.append(sums)
    intervals = _intervals(taken)
    found = [
        _difference(sums, interval, 0 if sums.name in neutral else -1 if sums.name in lower else 1)
        for sums, interval in zip(taken, intervals, strict=True)
    ]
    rest = [d.name for d in found if d.name != headline]
    corrected = dict(zip(rest, holm([d.p for d in found if d.name != headline]), strict=True))
    return [replace(d, corrected=corrected.get(d.name, d.p)) for d in found], dropped


def mcnemar(only_a: int, only_b: int) -> float:
    """McNemar's exact test: how likely heads and tails are to lie this far apart, or farther, by chance."""
    tosses, fewer = only_a + only_b, min(only_a, only_b)
    if only_a == only_b:
        return 1.0
    ways = (
        math.lgamma(tosses + 1) - math.lgamma(k + 1) - math.lgamma(tosses - k + 1) for k in range(fewer + 1)
    )
    return min(1.0, 2 * math.fsum(math.exp(way - tosses * math.log(2)) for way in ways))


def holm(values: Sequence[float]) -> list[float]:
    """p-values, corrected for their number by Holm's step-down method."""
    corrected, highest = [0.0] * len(values), 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = highest
    return corrected


def swap_test(numerators: np.ndarray, denominators: np.ndarray, swaps: int = SWAPS) -> float:
    """How often the ratios lie as far apart where each question's two outcomes are swapped at random.

    Args:
        numerators, denominators: of A and B [questions, 2].
    """
    sums, bottoms = numerators.sum(0), denominators.sum(0)
    moves = np.stack([numerators @ (-1, 1), denominators @ (-1, 1)], 1)  # what A gains by a swap
    moves, counts = np.unique(moves[(moves != 0).any(1)], axis=0, return_counts=True)
    if not len(moves):
        return 1.0
    observed = abs(sums[1] / bottoms[1] - sums[0] / bottoms[0])
    generator = np.random.default_rng(SEED)
    chunk, extreme = max(1, _CHUNK // len(moves)), 0
    for start in range(0, swaps, chunk):
        swapped = generator.binomial(counts, 0.5, (min(chunk, swaps - start), len(moves)))
        gained = swapped.astype(float) @ moves
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio_a = (sums[0] + gained[:, 0]) / (bottoms[0] + gained[:, 1])
            ratio_b = (sums[1] - gained[:, 0]) / (bottoms[1] - gained[:, 1])
            extreme += int((~(abs(ratio_b - ratio_a) < observed - _TIE)).sum())  # undefined counts as far
    return (1 + extreme) / (1 + swaps)


def _paired_sums(a: Sequence[Outcome], b: Sequence[Outcome], name: str) -> _Sums:
    """Sums over the questions that are scored in both runs."""
    kept = np.array([_scored(x) and _scored(y) for x, y in zip(a, b, strict=True)], dtype=bool)
    (numerators_a, denominators_a), (numerators_b, denominators_b) = sums_of(a, name), sums_of(b, name)
    return _Sums(
        name,
        (numerators_a * kept, denominators_a * kept),
        (numerators_b * kept, denominators_b * kept),
        int((~kept & ((denominators_a > 0) | (denominators_b > 0))).sum()),
    )


def _scored(outcome: Outcome) -> bool:
    """Not so where a judge's review failed, say: then the question must not count for the other run alone."""
    return outcome.read is not None or any(denominator > 0 for _, denominator in outcome.sums.values())


def _intervals(taken: Sequence[_Sums]) -> list[tuple[float, float]]:
    """95% intervals of B - A, as shares; every measure and both runs take the same draws."""
    if not taken:
        return []
    columns = np.stack([column for sums in taken for column in sums.columns], 1)  # [questions, 4 x measures]
    drawn = resampled_sums(columns).reshape(-1, len(taken), 4)
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = drawn[:, :, 2] / drawn[:, :, 3] - drawn[:, :, 0] / drawn[:, :, 1]
    return [percentiles(apart[:, place]) for place in range(len(taken))]


def _difference(sums: _Sums, interval: tuple[float, float], better: int) -> Difference:
    (a, under_a), (b, under_b) = sums.a, sums.b
    value_a, value_b = 100 * float(a.sum() / under_a.sum()), 100 * float(b.sum() / under_b.sum())
    only_a = only_b = None
    if is_share(a, under_a) and is_share(b, under_b) and (under_a == under_b).all():
        only_a, only_b = int((a > b).sum()), int((b > a).sum())
        p = mcnemar(only_a, only_b)
    else:
        p = swap_test(np.stack([a, b], 1), np.stack([under_a, under_b], 1))
    return Difference(
        name=sums.name,
        a=value_a,
        b=value_b,
        difference=value_b - value_a,
        low=100 * interval[0],
        high=100 * interval[1],
        count=int(((under_a > 0) | (under_b > 0)).sum()),
        left_out=sums.left_out,
        better=better,
        test="swap" if only_a is None else "mcnemar",
        only_a=only_a,
        only_b=only_b,
        p=p,
        corrected=p,
    )


def as_row(difference: Difference) -> Mapping[str, object]:
    """A difference as JSON has it."""
    return {
        **{key: value for key, value in vars(difference).items() if key not in ("name", "better")},
        "better": {1: "higher", -1: "lower", 0: "neither"}[difference.better],
        "verdict": difference.verdict,
    }
