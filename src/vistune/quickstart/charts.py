"""Geometry of the report's loss curves. Colours and words are the template's.

A plot spans 0 to 1000 in x and y, y downwards; places of labels are percent of the plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from vistune.page.smoothing import moving_average

_SPAN = 1000
_MOST_POINTS = 1000  # a longer curve is thinned to about this many


@dataclass(frozen=True)
class Tick:
    at: float  # percent from the left or from the top
    label: str


@dataclass(frozen=True)
class LossCurve:
    """One stage's loss over its optimizer steps.

    Attributes:
        raw, smooth, rate: SVG path data of the loss, its moving average and the learning rate.
        last: the moving average after the last step.
        last_at: percent from the top at which it lies.
    """

    raw: str
    smooth: str
    rate: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    first: float
    last: float
    last_at: float
    peak_rate: float


def loss_range(stages: Iterable[Sequence[dict[str, Any]]]) -> tuple[float, float]:
    """Lowest and highest loss to draw, with a little air; one range for all stages makes them comparable."""
    losses = [row["loss"] for rows in stages for row in rows if _drawable(row["loss"])]
    if not losses:
        return 0.1, 10.0
    return min(losses) / 1.2, max(losses) * 1.2


def loss_curve(rows: Sequence[dict[str, Any]], low: float, high: float) -> LossCurve | None:
    """The curve of ``metrics.jsonl`` rows on a logarithmic loss axis; None where there is nothing to draw."""
    rows = [row for row in rows if _drawable(row["loss"])]
    if not rows:
        return None
    steps = [row["step"] for row in rows]
    losses = [row["loss"] for row in rows]
    rates = [max(row["learning_rate"].values()) for row in rows]
    averages = moving_average(losses, reach=len(rows) // 40)
    peak = max(rates)
    return LossCurve(
        raw=_path(steps, [_log_share(value, low, high) for value in losses]),
        smooth=_path(steps, [_log_share(value, low, high) for value in averages]),
        rate=_path(steps, [0.96 * rate / peak if peak else 0.0 for rate in rates]),
        x_ticks=_step_ticks(steps[0], steps[-1]),
        y_ticks=_loss_ticks(low, high),
        first=losses[0],
        last=averages[-1],
        last_at=100 * (1 - _log_share(averages[-1], low, high)),
        peak_rate=peak,
    )


def _drawable(loss: float) -> bool:
    return math.isfinite(loss) and loss > 0


def _log_share(value: float, low: float, high: float) -> float:
    """Where ``value`` lies between ``low`` (0) and ``high`` (1) on a logarithmic axis."""
    return math.log(value / low) / math.log(high / low)


def _path(steps: Sequence[int], shares: Sequence[float]) -> str:
    """SVG path data through (step, share of the height)."""
    width = max(1, steps[-1] - steps[0])
    points = [
        f"{_SPAN * (step - steps[0]) / width:.0f} {_SPAN * (1 - share):.0f}"
        for step, share in zip(steps, shares, strict=True)
    ]
    stride = math.ceil(len(points) / _MOST_POINTS)
    return "M" + "L".join(points[:-1:stride] + points[-1:])


def _loss_ticks(low: float, high: float) -> list[Tick]:
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = (digit * 10.0**exponent for exponent in exponents for digit in (1, 2, 5))
    return [
        Tick(100 * (1 - _log_share(value, low, high)), f"{value:g}")
        for value in values
        if low <= value <= high
    ]


def _step_ticks(first: int, last: int) -> list[Tick]:
    """Three to six round step numbers."""
    width = max(1, last - first)
    unit = 10 ** math.floor(math.log10(width))
    stride = max(1, next(s for s in (unit // 5, unit // 2, unit, 2 * unit) if s and width / s <= 5))
    numbers = range(math.ceil(first / stride) * stride, last + 1, stride)
    return [Tick(100 * (number - first) / width, f"{number:,}") for number in numbers]
