"""Rows that are decoded together: they join when they come and leave when they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from vistune.model.decode.apart import Apart
from vistune.model.decode.keys import Stretch
from vistune.model.decode.rows import Row
from vistune.model.decode.together import Together
from vistune.model.llava import Llava


class Reader(Protocol):
    """Remembers what rows have read; rows are known by their numbers, which are dense.

    Attributes:
        shares: what one row has read spares others reading it.
    """

    shares: bool

    def read(
        self,
        beginnings: Sequence[Sequence[int]],
        pictures: Tensor | None,
        before: Sequence[Stretch | None],
    ) -> list[Stretch]:
        """See :meth:`Decoder.read`."""
        ...

    def join(self, rows: Sequence[Row]) -> Tensor:
        """Read new rows' ids; returns their last hidden states [rows, D]."""
        ...

    def step(self, rows: Sequence[Row]) -> Tensor:
        """Read the last token that each of all rows has written; returns their hidden states [rows, D]."""
        ...

    def freeze(self, number: int) -> Stretch | None:
        """All that a row has read, for others to go on from, if that is possible."""
        ...

    def remove(self, number: int) -> None:
        """Forget a row; the last one takes its number."""
        ...


class Decoder:
    """Decodes rows together.

    Args:
        stop: the ids that end an answer.
    """

    def __init__(self, model: Llava, stop: Sequence[int]) -> None:
        self._model, self._stop = model, list(stop)
        self._rows: list[Row] = []  # by number
        self._reader: Reader = Together(model) if model.computing.decodes == "shared" else Apart(model)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shares(self) -> bool:
        """Whether a beginning that was read spares rows reading it."""
        return self._reader.shares

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
        return self._reader.read(beginnings, pictures, before or [None] * len(beginnings))

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> list[Row]:
        """Read the rows' ids and write each one's first token; returns those that have ended with it."""
        first = len(self)
        hidden = self._reader.join(rows)
        for row in rows:
            row.stretch = row.pictures = None  # where they are of use, they are kept
        self._rows += rows
        return self._write(range(first, len(self)), hidden)

    @torch.inference_mode()
    def step(self) -> list[Row]:
        """Write one token of every row; returns those that have ended with it, which have left."""
        return self._write(range(len(self)), self._reader.step(self._rows))

    def leave(self, row: Row) -> None:
        """Drop a row, whether or not its answer is complete."""
        number = self._rows.index(row)
        self._reader.remove(number)
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
                row.kept = self._reader.freeze(self._rows.index(row))
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
