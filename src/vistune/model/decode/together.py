"""Reads rows together, in one packed row; what rows begin with is read once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vistune.model.decode.keys import Slots, Stretch
from vistune.model.decode.reading import ReadOne, ReadRows, ReadStretches
from vistune.model.decode.rows import Row, in_one_row, pictures_of
from vistune.model.llava import Llava


class Together:
    """Keys and values of all rows, by slot; see :class:`vistune.model.decode.decoder.Reader`."""

    shares = True

    def __init__(self, model: Llava) -> None:
        self._model, self._slots = model, Slots()

    def read(
        self,
        beginnings: Sequence[Sequence[int]],
        pictures: Tensor | None,
        before: Sequence[Stretch | None],
    ) -> list[Stretch]:
        lengths = [len(ids) for ids in beginnings]
        stretches = [Stretch(n, earlier) for n, earlier in zip(lengths, before, strict=True)]
        starts = [stretch.length - n for stretch, n in zip(stretches, lengths, strict=True)]
        self._model.read(
            in_one_row(beginnings, self._model.device),
            _positions(starts, lengths, self._model.device),
            ReadStretches(stretches, lengths),
            pictures,
        )
        for stretch in stretches:
            stretch.close()
        return stretches

    def join(self, rows: Sequence[Row]) -> Tensor:
        first = len(self._slots)
        numbers = range(first, first + len(rows))
        lengths = [len(row.ids) for row in rows]
        self._slots.add([row.stretch for row in rows], lengths)
        hidden = self._model.read(
            in_one_row([row.ids for row in rows], self._model.device),
            _positions([self._slots.start(number) for number in numbers], lengths, self._model.device),
            ReadRows(self._slots, numbers, lengths),
            pictures_of(rows),
        )
        self._slots.grow([0] * first + lengths)
        lasts = torch.tensor(lengths, device=hidden.device).cumsum(0) - 1
        return hidden[lasts]

    def step(self, rows: Sequence[Row]) -> Tensor:
        device = self._model.device
        self._slots.reserve([1] * len(rows))
        starts = [self._slots.start(number) for number in range(len(rows))]
        hidden = self._model.read(
            in_one_row([row.written[-1:] for row in rows], device),
            torch.tensor([starts], device=device),
            ReadOne(self._slots, device),
        )
        self._slots.grow([1] * len(rows))
        return hidden

    def freeze(self, number: int) -> Stretch | None:
        return self._slots.freeze(number)

    def remove(self, number: int) -> None:
        self._slots.remove(number)


def _positions(starts: Sequence[int], lengths: Sequence[int], device: torch.device) -> Tensor:
    places = [range(start, start + length) for start, length in zip(starts, lengths, strict=True)]
    return torch.tensor([[place for piece in places for place in piece]], device=device)
