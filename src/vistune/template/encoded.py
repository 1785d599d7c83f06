"""A conversation as ids and labels, and how it is cut where it is too long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from vistune.conversation import IGNORE_INDEX


class Answered(NamedTuple):
    """A place where an answer is complete: positions and pictures before it, its STOP included."""

    length: int
    pictures: int


@dataclass(frozen=True)
class Encoded:
    """A conversation as ids. ``labels`` repeats the ids of answers and STOPs; elsewhere IGNORE_INDEX.

    Each picture stands as ``patches`` repetitions of the image token. ``answered`` holds, answer by answer,
    where a cut may be.
    """

    ids: list[int]
    labels: list[int]
    pictures: list[str]
    answered: list[Answered] = field(default_factory=list)

    @property
    def supervised(self) -> int:
        """How many positions are trained on."""
        return sum(label != IGNORE_INDEX for label in self.labels)

    def cut(self, max_length: int) -> Encoded | None:
        """The sample itself where it fits; else all up to the last whole answer that fits, with its STOP.

        Never ends amid a picture or an answer, and never without a label.

        Returns:
            None where not even the first answer fits.
        """
        if len(self.ids) <= max_length:
            return self
        fitting = [place for place in self.answered if place.length <= max_length]
        if not fitting:
            return None
        length, pictures = fitting[-1]
        return Encoded(self.ids[:length], self.labels[:length], self.pictures[:pictures], fitting)
