"""Which unseen pictures the report shows, and what was asked about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vistune.evaluate.outcome import Outcome


@dataclass(frozen=True)
class Exchange:
    """One question with the answer to the picture and, where it was asked, the answer without it."""

    seeing: Outcome
    blind: Outcome | None

    @property
    def needs_picture(self) -> bool:
        """Right with the picture and wrong without it."""
        return bool(self.seeing.right) and self.blind is not None and not self.blind.right


@dataclass(frozen=True)
class Card:
    """A picture with all its questions, in the order they were asked."""

    image: str
    exchanges: list[Exchange]

    @property
    def right(self) -> int:
        return count_right([self])


@dataclass(frozen=True)
class Gallery:
    """The chosen pictures; ``stride``: every how many pictures one was taken."""

    cards: list[Card]
    stride: int

    @property
    def questions(self) -> int:
        return sum(len(card.exchanges) for card in self.cards)

    @property
    def right(self) -> int:
        return count_right(self.cards)

    @property
    def share(self) -> float:
        """Of right answers."""
        return self.right / self.questions


def count_right(cards: Sequence[Card]) -> int:
    """How many answers are right with the picture."""
    return sum(bool(exchange.seeing.right) for card in cards for exchange in card.exchanges)


def make_gallery(seeing: Sequence[Outcome], blind: Sequence[Outcome], wanted: int) -> Gallery:
    """Choose ``wanted`` pictures, or all where there are fewer.

    Pictures are taken at equal distances. Of all the places to start, the one is taken that shows most
    kinds of questions and both outcomes, and whose share of right answers is nearest to that of all.
    """
    cards = _cards(seeing, {outcome.id: outcome for outcome in blind})
    if not cards:
        return Gallery([], 1)
    stride = max(1, len(cards) // wanted)
    overall = Gallery(cards, 1)

    def rank(start: int) -> tuple[int, float]:
        chosen = Gallery(cards[start::stride][:wanted], stride)
        return -_variety(chosen.cards), abs(chosen.share - overall.share)

    start = min(range(stride), key=rank)
    return Gallery(cards[start::stride][:wanted], stride)


def _cards(seeing: Sequence[Outcome], blind: Mapping[str, Outcome]) -> list[Card]:
    groups: dict[str, list[Exchange]] = defaultdict(list)
    for outcome in seeing:
        if outcome.image is not None:
            groups[outcome.image].append(Exchange(outcome, blind.get(outcome.id)))
    return [Card(image, groups[image]) for image in sorted(groups)]


def _variety(cards: Sequence[Card]) -> int:
    """How many kinds of questions and outcomes are to be seen."""
    shown = [exchange.seeing for card in cards for exchange in card.exchanges]
    return len({outcome.kind for outcome in shown}) + len({outcome.right for outcome in shown})
