"""The rule by which CC3M was filtered (paper App. E), pure: counts and captions in, chosen captions out."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vistune.errors import VistuneError


@dataclass(frozen=True)
class Rule:
    """How many captions each noun phrase may bring.

    Attributes:
        min_count: phrases in fewer captions are skipped. A phrase's frequency is the number of captions that
            contain it, so that a caption which says it twice counts once.
        cap: of a phrase in more captions than this, a random ``cap`` of them is taken.
        count_pool: captions of the phrase that rarer phrases already brought count towards ``cap``, so that
            only the missing ones are drawn. Off: the paper draws "out of all its captions", the frequency
            decides whether it draws, and a caption drawn twice is in the pool once. On gives a smaller,
            flatter selection that depends on the order of the phrases.
    """

    min_count: int = 3
    cap: int = 100
    count_pool: bool = False

    def __post_init__(self) -> None:
        if self.min_count < 1 or self.cap < 1:
            raise VistuneError(
                f"min_count and cap must be at least 1, found {self.min_count} and {self.cap}."
            )


def select(
    phrases: Sequence[str],
    counts: np.ndarray,
    captions_of: Callable[[int], np.ndarray],
    rule: Rule,
    seed: int,
    pool: np.ndarray,
) -> None:
    """Add the captions that the rule chooses to ``pool``.

    Phrases come from the lowest frequency upward, equal ones in alphabetical order. Each phrase has a draw
    of its own, seeded with ``seed`` and its text: no other phrase can change it.

    Args:
        phrases: [phrases] texts, all different.
        counts: [phrases] how many captions contain each.
        captions_of: the captions that contain a phrase, ascending, by the phrase's place in ``phrases``;
            asked for phrases of ``min_count`` or more alone.
        pool: [captions] bool, all False; chosen captions become True.
    """
    for number in order(phrases, counts, rule.min_count):
        captions = captions_of(number)
        if len(captions) > rule.cap:
            captions = _draw(captions, pool, rule, random.Random(f"curate/{seed}/{phrases[number]}"))
        pool[captions] = True


def order(phrases: Sequence[str], counts: np.ndarray, min_count: int) -> list[int]:
    """Places of the phrases that are not skipped: rarest first, equal ones alphabetically."""
    frequent = np.flatnonzero(counts >= min_count).tolist()
    return sorted(frequent, key=lambda number: (counts[number], phrases[number]))


def _draw(captions: np.ndarray, pool: np.ndarray, rule: Rule, rng: random.Random) -> np.ndarray:
    wanted = rule.cap
    if rule.count_pool:
        fresh = captions[~pool[captions]]
        wanted = max(0, wanted - (len(captions) - len(fresh)))
        captions = fresh
    return captions[rng.sample(range(len(captions)), wanted)]
