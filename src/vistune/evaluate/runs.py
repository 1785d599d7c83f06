"""The same benchmark, measured several times: what stays, and how far the runs lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

from vistune.evaluate.measure import Measure, percentiles, resampled_sums, sums_of
from vistune.evaluate.outcome import Outcome


@dataclass(frozen=True)
class Runs:
    """Measures over runs, in percent.

    Attributes:
        mean: over the runs that have the measure.
        deviation: sample standard deviation; None where fewer than two runs have the measure.
        values: of each run; None where it has not the measure.
    """

    mean: dict[str, float]
    deviation: dict[str, float | None]
    runs: int
    values: dict[str, tuple[float | None, ...]]


def over_runs(runs: Sequence[Mapping[str, Measure]]) -> Runs:
    """Each measure of any run, in the order of first sight."""
    names = dict.fromkeys(name for run in runs for name in run)
    values = {name: tuple(run[name].value if name in run else None for run in runs) for name in names}
    known = {name: [value for value in row if value is not None] for name, row in values.items()}
    return Runs(
        mean={name: fmean(row) for name, row in known.items()},
        deviation={name: stdev(row) if len(row) > 1 else None for name, row in known.items()},
        runs=len(runs),
        values=values,
    )


def means(runs: Sequence[Mapping[str, Measure]], outcomes: Sequence[Sequence[Outcome]]) -> dict[str, Measure]:
    """Each measure's mean over the runs that have it, with the interval of that mean.

    A question is drawn with what all runs made of it; a count is of questions that some run counts.

    Args:
        outcomes: of each run.
    """
    known = [{outcome.id: outcome for outcome in run} for run in outcomes]
    ids = list(dict.fromkeys(name for run in known for name in run))
    aligned = [[run.get(name, Outcome(name, "", "", {})) for name in ids] for run in known]
    return {name: _mean(name, mean, aligned) for name, mean in over_runs(runs).mean.items()}


def _mean(name: str, mean: float, runs: Sequence[Sequence[Outcome]]) -> Measure:
    pairs = [sums_of(run, name) for run in runs]
    pairs = [pair for pair in pairs if pair[1].any()]
    drawn = resampled_sums(np.stack([column for pair in pairs for column in pair], 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = drawn[:, ::2] / drawn[:, 1::2]
    low, high = percentiles(100 * ratios.mean(1))
    count = int(np.any([counted > 0 for _, counted in pairs], axis=0).sum())
    return Measure(mean, low, high, count, "bootstrap")
