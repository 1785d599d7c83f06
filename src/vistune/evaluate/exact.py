"""Exact-match accuracy, overall and by kind of question, each with its count and 95% interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vistune.evaluate.answer import Answer


@dataclass(frozen=True)
class Accuracy:
    """``value``: share that is right; ``low`` to ``high``: Wilson's 95% interval."""

    value: float
    count: int
    low: float
    high: float


def accuracy(answers: Sequence[Answer]) -> Accuracy:
    """Share of exact matches."""
    count = len(answers)
    right = sum(answer.correct for answer in answers)
    low, high = wilson_interval(right, count)
    return Accuracy(right / count if count else 0.0, count, low, high)


def accuracy_by_kind(answers: Sequence[Answer]) -> dict[str, Accuracy]:
    """The same, for each kind of question."""
    groups: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        groups[answer.kind].append(answer)
    return {kind: accuracy(group) for kind, group in sorted(groups.items())}


def wilson_interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share; (0, 1) where nothing was counted."""
    if count == 0:
        return 0.0, 1.0
    share = right / count
    center = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def table(scores: dict[str, Any]) -> str:
    """The scores as plain text: each kind with and without the picture, and how many questions."""
    lines = [f"{'kind':<10} {'accuracy':>8}  {'95% interval':>14}  {'blind':>6}  {'questions':>9}"]
    blind = {**scores["blind_accuracy_by_kind"], "all": scores["blind_accuracy"]}
    for kind, row in {**scores["accuracy_by_kind"], "all": scores["accuracy"]}.items():
        interval = f"{row['low']:.1%}-{row['high']:.1%}"
        share = f"{row['value']:>8.1%}  {interval:>14}  {blind[kind]['value']:>6.1%}"
        lines.append(f"{kind:<10} {share}  {row['count']:>9}")
    return "\n".join(lines)
