"""The loss curves of a run's stages as one picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vistune.page.smoothing import moving_average
from vistune.train.best import HeldOutRow, best_of

_COLOURS = ("#4456d6", "#2fa58e", "#c4578f", "#f4b740")  # the page's series
_INK, _SOFT, _LINE, _RATE = "#1c1d22", "#5f626b", "#e4e0d7", "#b3afa5"
_WIDTH, _HEIGHT = 5.2, 3.6  # inches, of one stage
_LEAST_REACH = 1.6  # the axis spans at least its square; ticks are at most 2.5 times apart
_MOST_POINTS = 2000  # a longer curve is thinned to about this many


def draw_curves(
    stages: Mapping[str, Sequence[Mapping[str, Any]]],
    path: Path,
    held_out: Mapping[str, Sequence[HeldOutRow]] | None = None,
) -> None:
    """Draw each stage's loss, its moving average and the learning rate over optimizer steps, side by side.

    Args:
        stages: by name, the rows of ``metrics.jsonl``; a stage without a step to draw is left out.
        path: a .png or .svg; it appears whole or not at all, and not where there is nothing to draw.
        held_out: by a stage's name its evaluations; their loss is drawn, and the best one marked.
    """
    import matplotlib
    from matplotlib.figure import Figure

    stages = {name: kept for name, rows in stages.items() if (kept := _drawable(rows))}
    if not stages:
        return
    with matplotlib.rc_context({"svg.hashsalt": "vistune", "font.size": 10}):
        figure = Figure(figsize=(_WIDTH * len(stages), _HEIGHT), layout="constrained")
        axes = figure.subplots(1, len(stages), sharey=True, squeeze=False)[0]
        for number, (place, (name, rows)) in enumerate(zip(axes, stages.items(), strict=True)):
            _draw_stage(place, name, rows, _COLOURS[number % len(_COLOURS)])
            _draw_held_out(place, _measured(held_out, name))
        losses = [row["loss"] for rows in stages.values() for row in rows]
        losses += [row.loss for name in stages for row in _measured(held_out, name)]
        _scale(axes[0], losses)
        part = path.with_name(f"{path.stem}.part{path.suffix}")
        figure.savefig(part, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
        part.replace(path)


def _draw_stage(axes: Any, name: str, rows: Sequence[Mapping[str, Any]], colour: str) -> None:
    steps, losses = [row["step"] for row in rows], [row["loss"] for row in rows]
    average = moving_average(losses, reach=len(rows) // 40)
    kept = thinned(len(rows))
    _draw_rates(axes, rows)
    axes.plot([steps[k] for k in kept], [losses[k] for k in kept], color=colour, alpha=0.3, linewidth=0.8)
    axes.plot([steps[k] for k in kept], [average[k] for k in kept], color=colour, linewidth=2)
    axes.annotate(
        f"{average[-1]:.3f}", (steps[-1], average[-1]), (-2, 10), textcoords="offset points",
        ha="right", color=colour, fontweight="bold",
    )  # fmt: skip
    axes.set_title(f"{name}: {len(rows):,} steps", loc="left", color=_INK, fontweight="bold")
    axes.set_xlabel("optimizer step", color=_SOFT)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.tick_params(which="both", colors=_SOFT, length=0)
    axes.grid(color=_LINE, linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(_LINE)


def _draw_held_out(axes: Any, rows: Sequence[HeldOutRow]) -> None:
    """The held-out loss, dashed; a ring around the best evaluation."""
    best = best_of(rows)
    if best is None:
        return
    axes.plot([row.step for row in rows], [row.loss for row in rows], "--o", color=_INK, markersize=3)
    axes.plot([best.step], [best.loss], "o", color=_INK, markersize=9, markerfacecolor="none")
    answers = f", answers {best.accuracy:.0%}" if best.accuracy is not None else ""
    axes.annotate(
        f"held out, best {best.loss:.3f}{answers}", (0.01, 0.02), xycoords="axes fraction",
        color=_INK, fontsize=8,
    )  # fmt: skip


def _measured(held_out: Mapping[str, Sequence[HeldOutRow]] | None, name: str) -> list[HeldOutRow]:
    """Evaluations that a logarithmic axis can hold."""
    rows = (held_out or {}).get(name, ())
    return [row for row in rows if math.isfinite(row.loss) and row.loss > 0]


def _scale(axes: Any, losses: Sequence[float]) -> None:
    """One logarithmic axis for all stages, wide enough that a figure stands on it."""
    from matplotlib.ticker import LogLocator, NullLocator

    middle = math.sqrt(min(losses) * max(losses))
    reach = 1.15 * max(math.sqrt(max(losses) / min(losses)), _LEAST_REACH)
    axes.set(yscale="log", ylim=(middle / reach, middle * reach))
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("loss, mean over supervised tokens", color=_SOFT)


def _draw_rates(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """The learning rate in the background; those of all parts have one shape, and the highest is drawn."""
    rates = [max(row["learning_rate"].values()) for row in rows]
    peak = max(rates)
    behind = axes.twinx()
    behind.set_zorder(axes.get_zorder() - 1)
    axes.patch.set_visible(False)
    behind.fill_between([row["step"] for row in rows], rates, color=_RATE, alpha=0.18, linewidth=0)
    behind.set(ylim=(0, 1.15 * peak or 1.0), yticks=[])
    behind.spines[:].set_visible(False)
    behind.text(
        0.99, 0.97, f"learning rate, peak {peak:.2g}", transform=behind.transAxes,
        ha="right", va="top", color=_SOFT, fontsize=8,
    )  # fmt: skip


def thinned(count: int) -> list[int]:
    """Which of ``count`` points to draw: all, or about 2,000 of them, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int)).tolist()


def _drawable(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows that a logarithmic axis can hold."""
    return [row for row in rows if math.isfinite(row["loss"]) and row["loss"] > 0]
