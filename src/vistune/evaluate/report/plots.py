"""Geometry of the page's plot: a dot for each score, a line for its interval. Colours are the style's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vistune.evaluate.published import Published
from vistune.evaluate.score import Scored

_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20)  # percent between ticks
_MOST_TICKS = 6


@dataclass(frozen=True)
class Tick:
    at: float  # percent of the plot's width
    label: str


@dataclass(frozen=True)
class Dot:
    """``row``: the published row it belongs to, from 1; 0 for what was scored here."""

    at: float  # percent of the plot's width
    title: str
    row: int = 0


@dataclass(frozen=True)
class Line:
    """One measure: its dots, published ones first, and its interval as percent of the plot's width."""

    name: str
    value: str
    dots: list[Dot]
    interval: tuple[float, float] | None


@dataclass(frozen=True)
class Plot:
    lines: list[Line]
    ticks: list[Tick]


def plot(runs: Sequence[Scored], values: Mapping[str, float], published: Sequence[Published]) -> Plot:
    """Every measure on one axis of percent.

    Args:
        values: what is told of each measure: the only run's value, or the mean.
    """
    axis = _axis([*_ours(runs), *(score for row in published for score in row.scores.values())])
    lines = [_line(name, value, runs, published, axis) for name, value in values.items()]
    return Plot(lines, axis.ticks())


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    step: float

    def at(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[Tick]:
        count = round((self.high - self.low) / self.step)
        values = [self.low + number * self.step for number in range(count + 1)]
        return [Tick(self.at(value), f"{value:g}") for value in values]


def _axis(values: Sequence[float]) -> _Axis:
    """Round numbers around all values; beyond 0 or 100 only where a value is."""
    low, high = min(values, default=0.0), max(values, default=100.0)
    step = next((step for step in _STEPS if (high - low) / step <= _MOST_TICKS - 2), _STEPS[-1])
    first, last = math.floor(low / step) * step, math.ceil(high / step) * step
    if first == last:
        first, last = max(0.0, first - step), max(last, min(100.0, last + step))
    return _Axis(round(first, 6), round(last, 6), step)


def _ours(runs: Sequence[Scored]) -> list[float]:
    measures = [measure for run in runs for measure in run.measures.values()]
    if len(runs) > 1:
        return [measure.value for measure in measures]
    return [edge for measure in measures for edge in (measure.low, measure.value, measure.high)]


def _line(
    name: str, value: float, runs: Sequence[Scored], published: Sequence[Published], axis: _Axis
) -> Line:
    dots = [
        Dot(axis.at(row.scores[name]), f"{row.model}: {row.cell(name)}", number)
        for number, row in enumerate(published, 1)
        if name in row.scores
    ]
    if len(runs) > 1:
        dots += [
            Dot(axis.at(run.measures[name].value), f"run {number}: {run.measures[name].value:.2f}")
            for number, run in enumerate(runs, 1)
            if name in run.measures
        ]
        return Line(name, f"{value:.2f}", dots, None)
    measure = runs[0].measures[name]
    title = f"{name}: {value:.2f}, 95% interval {measure.low:.2f} to {measure.high:.2f}"
    interval = (axis.at(measure.low), axis.at(measure.high))
    return Line(name, f"{value:.2f}", [*dots, Dot(axis.at(value), title)], interval)
