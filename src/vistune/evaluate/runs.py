"""The same benchmark, measured several times: what stays, and how far the runs lie apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from vistune.evaluate.measure import Measure


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
