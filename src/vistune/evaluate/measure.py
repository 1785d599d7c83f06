"""Every measure is a ratio of sums over questions: one place for its value, its count and its interval.

Accuracy sums (right, 1); precision (true positive, said yes); F1 (2 true positives, 2 true positives and all
errors); a judge's relative score (candidate, reference); CHAIR (invented objects, named objects). So values,
intervals and comparisons are computed in one way, whatever the benchmark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vistune.evaluate.outcome import Outcome

RESAMPLES, SEED = 2000, 0
_Z = 1.96
_CHUNK = 2**22  # numbers drawn at a time
_FEW = 2000  # kinds of questions; more are drawn one by one, which costs the same for any number


@dataclass(frozen=True)
class Measure:
    """A measure in percent, with its 95% interval.

    Attributes:
        count: questions with a share in its denominator.
        method: of the interval: ``wilson`` for shares, ``bootstrap`` over questions for other ratios.
    """

    value: float
    low: float
    high: float
    count: int
    method: str = field(default="wilson", compare=False)


def measures(outcomes: Sequence[Outcome], names: Sequence[str] | None = None) -> dict[str, Measure]:
    """Each measure over ``outcomes``, in the order of ``names`` or of first sight.

    A measure that counts no question is left out.
    """
    wanted = names or list(dict.fromkeys(name for outcome in outcomes for name in outcome.sums))
    sums = {name: sums_of(outcomes, name) for name in wanted}
    sums = {
        name: (numerators, denominators)
        for name, (numerators, denominators) in sums.items()
        if denominators.any()
    }
    others = [name for name, pair in sums.items() if not is_share(*pair)]
    ratios = _resampled([sums[name] for name in others])
    return {
        name: _ratio(*pair, ratios[:, others.index(name)]) if name in others else _share(*pair)
        for name, pair in sums.items()
    }


def _resampled(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """The ratios over resamples [resamples, measures]; nan where a resample counts nothing."""
    if not pairs:
        return np.zeros((0, 0))
    drawn = resampled_sums(np.stack([column for pair in pairs for column in pair], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return drawn[:, ::2] / drawn[:, 1::2]


def sums_of(outcomes: Sequence[Outcome], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Numerators and denominators [questions] of one measure; 0 and 0 where it does not count a question."""
    pairs = np.array([outcome.sums.get(name, (0.0, 0.0)) for outcome in outcomes], dtype=float)
    return (pairs[:, 0], pairs[:, 1]) if len(pairs) else (np.zeros(0), np.zeros(0))


def _share(right: np.ndarray, counted: np.ndarray) -> Measure:
    count = int(counted.sum())
    low, high = wilson_interval(int(right.sum()), count)
    return Measure(100 * float(right.sum()) / count, 100 * low, 100 * high, count)


def _ratio(numerators: np.ndarray, denominators: np.ndarray, ratios: np.ndarray) -> Measure:
    """``ratios``: of the resamples."""
    low, high = percentiles(100 * ratios)
    value = 100 * float(numerators.sum() / denominators.sum())
    return Measure(value, low, high, int((denominators > 0).sum()), "bootstrap")


def is_share(numerators: np.ndarray, denominators: np.ndarray) -> bool:
    """Each question counts once, as right or wrong."""
    return bool(np.isin(numerators, (0, 1)).all() and np.isin(denominators, (0, 1)).all())


def wilson_interval(right: int, count: int, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    share = right / count
    center = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def resampled_sums(columns: np.ndarray) -> np.ndarray:
    """Sums over bootstrap resamples of the questions; the same draws for the same columns.

    Questions that add the same are drawn together: so many from each kind as a draw one by one would give.

    Args:
        columns: [questions, columns].

    Returns:
        [resamples, columns].
    """
    generator = np.random.default_rng(SEED)
    kinds, counts = np.unique(columns, axis=0, return_counts=True)
    questions = len(columns)
    chunk = max(1, _CHUNK // len(kinds))
    sums = []
    for start in range(0, RESAMPLES, chunk):
        size = min(chunk, RESAMPLES - start)
        if len(kinds) < _FEW:
            drawn = generator.multinomial(questions, counts / questions, size)
        else:
            one_by_one = generator.integers(0, questions, (size, questions))
            kind = np.repeat(np.arange(len(kinds)), counts)[one_by_one]
            kind += len(kinds) * np.arange(size)[:, None]
            drawn = np.bincount(kind.ravel(), minlength=size * len(kinds)).reshape(size, -1)
        sums.append(drawn.astype(float) @ kinds)
    return np.concatenate(sums)


def percentiles(values: np.ndarray) -> tuple[float, float]:
    """The middle 95% of ``values``."""
    low, high = np.nanpercentile(values, (2.5, 97.5))
    return float(low), float(high)
