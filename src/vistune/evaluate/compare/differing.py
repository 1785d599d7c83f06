"""Where two runs differ: each common question, who does better on it, and which of them are shown."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from vistune.evaluate.outcome import Outcome

BOTH_RIGHT, ONLY_A, ONLY_B, NEITHER = "both right", "A", "B", "neither right"
SAME, NOT_SCORED = "equal", "not scored in both"


@dataclass(frozen=True)
class Pair:
    """A question's two outcomes.

    Attributes:
        lead: how much better B is: 1, 0 or -1 where answers are right or wrong, else a difference of scores.
        graded: they are not right or wrong.
        scores: of the leading measure, in percent, where they are graded; None where it does not count one.
    """

    a: Outcome
    b: Outcome
    lead: float
    graded: bool = False
    scores: tuple[float | None, float | None] = (None, None)

    @property
    def id(self) -> str:
        return self.a.id

    @property
    def kind(self) -> str:
        return self.a.kind or self.b.kind

    @property
    def who(self) -> str:
        """``A`` or ``B``, who does better; else both or neither right, equal, or not scored."""
        if self.lead:
            return ONLY_B if self.lead > 0 else ONLY_A
        if None in (self.scores if self.graded else (self.a.right, self.b.right)):
            return NOT_SCORED
        if self.graded:
            return SAME
        return BOTH_RIGHT if self.a.right else NEITHER


def pair_up(a: Sequence[Outcome], b: Sequence[Outcome], measure: str, better: int) -> list[Pair]:
    """Pairs of outcomes of the same questions.

    Args:
        measure: tells who does better where questions are not right or wrong.
        better: 1 where more of it is better, -1 where less is.
    """
    pairs = list(zip(a, b, strict=True))
    if any(x.right is not None and y.right is not None for x, y in pairs):
        return [Pair(x, y, _gain(x.right, y.right)) for x, y in pairs]
    return [_graded(x, y, measure, better) for x, y in pairs]


def choose(pairs: Sequence[Pair], most: int, seed: int = 0) -> list[Pair]:
    """At most ``most`` of the pairs that differ; those that differ most first, then in the questions' order.

    Of right and wrong answers, as many where A is right as where B is, and of each kind, drawn by lot; of
    graded ones, as many to either side, those that differ most.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        if pair.lead:
            groups[pair.who, "" if pair.graded else pair.kind].append(place)
    sides: dict[str, list[list[int]]] = defaultdict(list)
    for (who, kind), places in sorted(groups.items()):
        random.Random(f"compare/{seed}/{who}/{kind}").shuffle(places)
        sides[who].append(sorted(places, key=lambda place: -abs(pairs[place].lead)))
    order = _in_turn([_in_turn(kinds) for kinds in sides.values()])
    shown = sorted(order[:most], key=lambda place: (-abs(pairs[place].lead), place))
    return [pairs[place] for place in shown]


def _in_turn(rows: Sequence[Sequence[int]]) -> list[int]:
    """The first of each row, then the second of each, and so on."""
    return [place for column in zip_longest(*rows) for place in column if place is not None]


def _gain(a: bool | None, b: bool | None) -> int:
    return 0 if a is None or b is None else int(b) - int(a)


def _graded(a: Outcome, b: Outcome, measure: str, better: int) -> Pair:
    x, y = _score(a, measure), _score(b, measure)
    lead = 0.0 if x is None or y is None else better * round(y - x, 9)
    return Pair(a, b, lead, True, (x, y))


def _score(outcome: Outcome, measure: str) -> float | None:
    numerator, denominator = outcome.sums.get(measure, (0.0, 0.0))
    return 100 * numerator / denominator if denominator else None
