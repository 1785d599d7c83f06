"""The paper's Fig. 7: how often each noun phrase occurs, before and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vistune.data.curate.select import Rule

_POINTS = 600  # of a curve; evenly spread over the logarithm of the rank
_COLOURS = {"before": "#8a94a6", "after": "#d1495b"}


def plot_frequencies(path: Path, before: np.ndarray, after: np.ndarray, rule: Rule) -> None:
    """Draw both curves over the rank of the phrases, the most frequent first, on logarithmic axes.

    Args:
        path: file to write, .svg or .png.
        before, after: [phrases] in how many captions each occurs, in any order; zeros are left out.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "vistune", "font.size": 11}):
        figure = Figure(figsize=(7.2, 4.4), layout="constrained")
        axes = figure.add_subplot()
        for name, counts in (("before", before), ("after", after)):
            ranks, frequencies = ranked(counts)
            label = f"{name}: {int(np.count_nonzero(counts)):,} unique noun phrases"
            axes.plot(ranks, frequencies, label=label, color=_COLOURS[name], linewidth=2)
        _mark(axes, rule)
        axes.set(xscale="log", yscale="log", xlabel="noun phrases, most frequent first", ylabel="captions")
        highest = max(rule.cap, int(before.max(initial=1)))  # said, for there may be nothing to draw
        axes.set(xlim=(0.8, 2 * max(10, int(np.count_nonzero(before)))), ylim=(0.8, 2 * highest))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, loc="upper right")
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)


def ranked(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ranks from 1 and the counts at them, falling; a long curve is thinned, its ends are kept."""
    falling = np.sort(counts[counts > 0])[::-1]
    if not len(falling):
        return falling, falling
    ranks = np.unique(np.geomspace(1, len(falling), _POINTS).round().astype(np.int64))
    return ranks, falling[ranks - 1]


def _mark(axes: Any, rule: Rule) -> None:
    """Lines at the two thresholds of the rule."""
    for name, value in (("cap", rule.cap), ("min count", rule.min_count)):
        axes.axhline(value, color="#b8bec9", linewidth=1, linestyle=":", zorder=0)
        axes.annotate(
            f"{name} {value}", (1, value), (2, 3), textcoords="offset points", color="#6b7280", fontsize=9
        )
