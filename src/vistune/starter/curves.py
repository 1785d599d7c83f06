"""The build's curves as one picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def draw_curves(log: Path, out: Path) -> None:
    """Draw losses and scores of ``build.jsonl`` over training steps."""
    from matplotlib.figure import Figure

    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, rows, "llm", ("loss", "accuracy"), "LLM: text scenes")
    keys = ("loss_captions", "loss_words", "retrieval_in_128", "patches_with_a_thing")
    _draw(right, rows, "vision", keys, "Vision encoder: unseen scenes")
    figure.savefig(out)


def _draw(axes: Any, rows: list[dict[str, Any]], part: str, keys: tuple[str, ...], title: str) -> None:
    for key in keys:
        points = [
            (row["step"], row[key]) for row in rows if row["part"] == part and key in row and "step" in row
        ]
        if points:
            axes.plot(*zip(*points, strict=True), label=key.replace("_", " "))
    axes.set(title=title, xlabel="optimizer step", ylim=(0, 3))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
