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


@dataclass(frozen=True)
class Folded:
    """A conversation as ids, each picture folded into one image token.

    A picture of 576 patches is most of a sample's length, and says nothing: samples are made, cut and stored
    folded, and unfolded where a model reads them.

    Attributes:
        spans: first position and last + 1 of each range that is trained on; ranges do not touch.
        places: positions of the image tokens.
        pictures: a file for each of ``places``.
        answered: as of :class:`Encoded`; lengths count folded positions.
        patches: how many positions a picture takes when it is unfolded.
    """

    ids: list[int]
    spans: list[tuple[int, int]]
    places: list[int]
    pictures: list[str]
    answered: list[Answered]
    patches: int

    def __len__(self) -> int:
        """Count the positions after unfolding."""
        return self.unfolded(len(self.ids), len(self.places))

    def unfolded(self, position: int, pictures: int) -> int:
        """Return where a position stands after unfolding the ``pictures`` before it."""
        return position + pictures * (self.patches - 1)

    @property
    def supervised(self) -> int:
        """Count the positions that are trained on."""
        return sum(end - first for first, end in self.spans)

    def cut(self, max_length: int) -> Folded | None:
        """Return the sample itself if it fits; else all up to the last whole answer that fits, with its STOP.

        A cut never ends inside a picture or an answer, and never without a label.

        Args:
            max_length: in positions after unfolding.

        Returns:
            None if not even the first answer fits.
        """
        if len(self) <= max_length:
            return self
        fitting = [place for place in self.answered if self.unfolded(*place) <= max_length]
        if not fitting:
            return None
        length, pictures = fitting[-1]
        # Answers that touch are one range: the cut may lie inside it.
        spans = [(first, min(end, length)) for first, end in self.spans if first < length]
        kept = self.places[:pictures], self.pictures[:pictures]
        return Folded(self.ids[:length], spans, *kept, fitting, self.patches)

    def unfold(self) -> Encoded:
        """Write every patch out, and the labels."""
        ids: list[int] = []
        labels: list[int] = []
        before = 0
        for place in (*self.places, len(self.ids)):
            ids += self.ids[before:place]
            if place < len(self.ids):
                ids += self.ids[place : place + 1] * self.patches
            before = place + 1
        labels = [IGNORE_INDEX] * len(ids)
        for first, end in self.spans:
            shift = self.unfolded(0, sum(place < first for place in self.places))
            labels[first + shift : end + shift] = self.ids[first:end]
        answered = [Answered(self.unfolded(*place), place.pictures) for place in self.answered]
        return Encoded(ids, labels, self.pictures, answered)
