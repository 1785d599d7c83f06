"""A judge's reply, its review: two scores in the first line, then why."""

from __future__ import annotations

import re

LOWEST, HIGHEST = 1.0, 10.0
_SCORE = r"[+-]?[0-9]+(?:\.[0-9]+)?"
_SCORES = re.compile(rf"({_SCORE})(?:\s*[,;/|]\s*|\s+)({_SCORE})")
_SHOWN = 80  # characters of a line that is told


class ReviewError(ValueError):
    """A review without two scores.

    Attributes:
        reason: a fixed phrase.
        detail: what was found in the scores' place.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def parse_scores(content: str) -> tuple[float, float]:
    """The scores of assistant 1 and of assistant 2; integers or decimals, parted by space, comma, ``;/|``.

    The first line must hold them and nothing else: numbers that stand in prose may be anything.

    Raises:
        ReviewError: it does not, or a score is not from 1 to 10.
    """
    text = content.strip()
    if not text:
        raise ReviewError("empty review")
    line = text.splitlines()[0].strip()
    found = _SCORES.fullmatch(line)
    if not found:
        raise ReviewError("the first line is not two scores", line[:_SHOWN])
    first, second = float(found[1]), float(found[2])
    if not (LOWEST <= first <= HIGHEST and LOWEST <= second <= HIGHEST):
        raise ReviewError("a score outside 1 to 10", line[:_SHOWN])
    return first, second
