"""Rows that are decoded together: they join when they come and leave when they end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vistune.model.decode.keys import Slots, Stretch
from vistune.model.decode.reading import ReadOne, ReadRows, ReadStretches
from vistune.model.llava import Llava


@dataclass(eq=False)
class Row:
    """One answer while it is written.

    Attributes:
        ids: what the model reads after ``stretch``; one token at least.
        most: new tokens at most.
        pictures: connected features [I, P, D] of the pictures in ``ids``; given up when the row joins, as
            ``stretch`` is.
        choose: the next token by its logits [V]; None takes the likeliest.
        keeps: leave what was read in ``kept`` when the answer ends.
        written: the answer's ids so far, its STOP included.
        kept: all that the row has read: not its last token, which was only written.
    """

    ids: Sequence[int]
    most: int
    stretch: Stretch | None = None
    pictures: Tensor | None = None
    choose: Callable[[Tensor], int] | None = None
    keeps: bool = False
    written: list[int] = field(default_factory=list)
    kept: Stretch | None = None


class Decoder:
    """Decodes rows together.

    Args:
        stop: the ids that end an answer.
    """

    def __init__(self, model: Llava, stop: Sequence[int]) -> None:
        self._model, self._stop = model, list(stop)
        self._rows: list[Row] = []  # by slot
        self._slots = Slots()

    def __len__(self) -> int:
        return len(self._rows)

    @torch.inference_mode()
    def read(
        self,
        beginnings: Sequence[Sequence[int]],
        pictures: Tensor | None,
        before: Sequence[Stretch | None] | None = None,
    ) -> list[Stretch]:
        """Read what rows will begin with, each once.

        Args:
            beginnings: ids of each.
            pictures: connected features [I, P, D] of their pictures, in reading order.
            before: what each goes on from.
        """
        before = before or [None] * len(beginnings)
        lengths = [len(ids) for ids in beginnings]
        stretches = [Stretch(n, earlier) for n, earlier in zip(lengths, before, strict=True)]
        starts = [stretch.length - n for stretch, n in zip(stretches, lengths, strict=True)]
        self._model.read(
            _row(beginnings, self._model.device),
            _positions(starts, lengths, self._model.device),
            ReadStretches(stretches, lengths),
            pictures,
        )
        for stretch in stretches:
            stretch.close()
        return stretches

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> list[Row]:
        """Read the rows' ids and write each one's first token; returns those that have ended with it."""
        first = len(self)
        numbers = range(first, first + len(rows))
        lengths = [len(row.ids) for row in rows]
        self._slots.add([row.stretch for row in rows], lengths)
        pictures = [row.pictures for row in rows if row.pictures is not None]
        hidden = self._model.read(
            _row([row.ids for row in rows], self._model.device),
            _positions([self._slots.start(number) for number in numbers], lengths, self._model.device),
            ReadRows(self._slots, numbers, lengths),
            torch.cat(pictures) if pictures else None,
        )
        self._slots.grow([0] * first + lengths)
        for row in rows:
            row.stretch = row.pictures = None  # where they are of use, they are kept
        self._rows += rows
        lasts = torch.tensor(lengths, device=hidden.device).cumsum(0) - 1
        return self._write(numbers, hidden[lasts])

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Write one token of every row; returns those that have ended with it, which have left."""
        device, rows = self._model.device, len(self)
        self._slots.reserve([1] * rows)
        starts = [self._slots.start(number) for number in range(rows)]
        hidden = self._model.read(
            _row([row.written[-1:] for row in self._rows], device),
            torch.tensor([starts], device=device),
            ReadOne(self._slots, device),
        )
        self._slots.grow([1] * rows)
        return self._write(range(rows), hidden)

    def leave(self, row: Row) -> None:
        """Drop a row, whether or not its answer is complete."""
        number = self._rows.index(row)
        self._slots.remove(number)
        last = self._rows.pop()
        if last is not row:
            self._rows[number] = last

    def _write(self, numbers: Sequence[int], hidden: Tensor) -> list[Row]:
        """A token after each of ``hidden`` [rows, D]; a picture's place is never written."""
        logits = self._model.head(hidden)
        logits[:, self._model.image_token] = -torch.inf
        rows = [self._rows[number] for number in numbers]
        for row, likeliest, scores in zip(rows, logits.argmax(-1).tolist(), logits, strict=True):
            row.written.append(row.choose(scores) if row.choose else likeliest)
        ended = [row for row in rows if self._ended(row)]
        for row in ended:
            if row.keeps:
                row.kept = self._slots.freeze(self._rows.index(row))
            self.leave(row)
        return ended

    def _ended(self, row: Row) -> bool:
        return len(row.written) >= row.most or self.stopped(row)

    def stopped(self, row: Row) -> bool:
        """The answer ends with STOP."""
        return row.written[-len(self._stop) :] == self._stop

    def answer(self, row: Row) -> list[int]:
        """What is written, without its STOP."""
        return row.written[: -len(self._stop)] if self.stopped(row) else list(row.written)


def _row(pieces: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    return torch.tensor([[token for ids in pieces for token in ids]], device=device)


def _positions(starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Tensor:
    places = [range(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    return torch.tensor([[place for piece in places for place in piece]], device=device)
