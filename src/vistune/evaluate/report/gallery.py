"""Which answers the page shows of those that fell short, and their pictures."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from vistune.data.images import UnusableImageError
from vistune.data.pictures import Pictures
from vistune.evaluate.benches.bench import Bench
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.score import Scored
from vistune.page.render import data_uri

MOST, SEED = 48, 0
_NAMED = 5


@dataclass(frozen=True)
class Card:
    """One answer.

    Attributes:
        run: its number, from 1.
        worth: what it earned of what it could have, e.g. ``6 of 9``; empty where that is plain.
        picture: a data URI, or None.
        flaw: why the picture is not shown.
    """

    outcome: Outcome
    run: int
    worth: str
    picture: str | None
    flaw: str


@dataclass(frozen=True)
class Gallery:
    """``short``: how many answers fell short; ``kinds``: how many cards there are of each kind."""

    cards: list[Card]
    short: int
    kinds: dict[str, int]

    @property
    def pictured(self) -> bool:
        """Some question was asked about a picture."""
        return any(card.outcome.image for card in self.cards)


@dataclass(frozen=True)
class Gaps:
    """What a place of pictures lacks; ``wanted``: how many the questions are about."""

    place: str
    wanted: int
    missing: list[str]

    def __str__(self) -> str:
        named = ", ".join(self.missing[:_NAMED]) + (", …" if len(self.missing) > _NAMED else "")
        return f"{self.place}: lacks {len(self.missing):,} of {self.wanted:,} pictures: {named}"


def find_gaps(pictures: Pictures, runs: Sequence[Scored]) -> Gaps:
    """Which of the questions' pictures are not there."""
    names = dict.fromkeys(q.image for run in runs for q in run.questions.questions if q.image)
    return Gaps(str(pictures.root), len(names), [name for name in names if not pictures.exists(name)])


def make_gallery(
    runs: Sequence[Scored], pictures: Pictures | None, most: int = MOST, seed: int = SEED
) -> Gallery:
    """Draw at most ``most`` answers by lot, each kind as often as the others where there are enough."""
    short = [
        (number, outcome)
        for number, run in enumerate(runs, 1)
        for outcome in run.outcomes
        if fell_short(run.bench, outcome)
    ]
    chosen = draw([outcome.kind for _, outcome in short], most, seed)
    cards = [_card(runs[0].bench, *short[place], pictures) for place in chosen]
    return Gallery(cards, len(short), dict(Counter(card.outcome.kind for card in cards).most_common()))


def fell_short(bench: Bench, outcome: Outcome) -> bool:
    """Wrong, or unread; where nothing is right or wrong, it earned less than it could of the headline."""
    if outcome.right is not None or outcome.read is None:
        return not outcome.right
    earned, possible = outcome.sums.get(bench.headline, (0.0, 0.0))
    return earned > 0 if bench.headline in bench.lower_is_better else earned < possible


def draw(kinds: Sequence[str], most: int, seed: int) -> list[int]:
    """Places of at most ``most`` of ``kinds``, in order: a kind's turn comes as often as another's."""
    places = list(range(len(kinds)))
    random.Random(seed).shuffle(places)
    waiting: dict[str, deque[int]] = {}
    for place in places:
        waiting.setdefault(kinds[place], deque()).append(place)
    chosen: list[int] = []
    while waiting and len(chosen) < most:
        for kind in sorted(waiting):
            chosen.append(waiting[kind].popleft())
        waiting = {kind: rest for kind, rest in waiting.items() if rest}
    return sorted(chosen[:most])


def _card(bench: Bench, run: int, outcome: Outcome, pictures: Pictures | None) -> Card:
    picture, flaw = _picture(outcome.image, pictures)
    earned, possible = outcome.sums.get(bench.headline, (0.0, 0.0))
    worth = f"{earned:g} of {possible:g}" if outcome.right is None and possible else ""
    return Card(outcome, run, worth, picture, flaw)


def _picture(name: str | None, pictures: Pictures | None) -> tuple[str | None, str]:
    if name is None or pictures is None:
        return None, ""
    try:
        return data_uri(pictures.open(name)), ""
    except UnusableImageError as error:
        return None, error.flaw.reason
