"""Which unseen pictures the report shows, and what was asked about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vistune.evaluate.answer import Answer


@dataclass(frozen=True)
class Exchange:
    """One question with the answer to the picture and, where it was asked, the answer without it."""

    seeing: Answer
    blind: Answer | None

    @property
    def needs_picture(self) -> bool:
        """Right with the picture and wrong without it."""
        return self.seeing.correct and self.blind is not None and not self.blind.correct


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


def count_right(cards: Sequence[Card]) -> int:
    """How many answers are right with the picture."""
    return sum(exchange.seeing.correct for card in cards for exchange in card.exchanges)


def make_gallery(answers: Sequence[Answer], blind: Sequence[Answer], wanted: int) -> Gallery:
    """Choose ``wanted`` pictures, or all where there are fewer.

    Pictures are taken at equal distances. Of all the places to start, the one is taken that shows most
    kinds of questions and both outcomes, and whose share of right answers is nearest to that of all.
    """
    cards = _cards(answers, {answer.id: answer for answer in blind})
    if not cards:
        return Gallery([], 1)
    stride = max(1, len(cards) // wanted)
    overall = count_right(cards) / len(answers)

    def rank(start: int) -> tuple[int, float]:
        chosen = Gallery(cards[start::stride][:wanted], stride)
        return -_variety(chosen.cards), abs(chosen.right / chosen.questions - overall)

    start = min(range(stride), key=rank)
    return Gallery(cards[start::stride][:wanted], stride)


def _cards(answers: Sequence[Answer], blind: Mapping[str, Answer]) -> list[Card]:
    groups: dict[str, list[Exchange]] = defaultdict(list)
    for answer in answers:
        groups[answer.image].append(Exchange(answer, blind.get(answer.id)))
    return [Card(image, groups[image]) for image in sorted(groups)]


def _variety(cards: Sequence[Card]) -> int:
    """How many kinds of questions and outcomes are to be seen."""
    shown = [exchange.seeing for card in cards for exchange in card.exchanges]
    return len({answer.kind for answer in shown}) + len({answer.correct for answer in shown})
