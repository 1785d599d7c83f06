"""Reads each row by itself, with transformers' own cache: for LLMs whose memory is not keys and values alone.

Nothing is shared but the pictures' features: each row reads its whole prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vistune.model.decode.keys import Stretch
from vistune.model.decode.rows import Row, in_one_row, pictures_of
from vistune.model.llava import Llava


class Unread(Stretch):
    """A beginning that each row reads for itself: its embeddings [1, length, D]."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__(embeddings.shape[1])
        self.embeddings = embeddings

    def first(self, length: int) -> Unread:
        return Unread(self.embeddings[:, :length])

    @property
    def bytes(self) -> int:
        return self.embeddings.nbytes


@dataclass
class _Memory:
    cache: Any
    places: int = 0  # read so far


class Apart:
    """A cache of each row; see :class:`vistune.model.decode.decoder.Reader`."""

    shares = False

    def __init__(self, model: Llava) -> None:
        self._model = model
        self._memories: list[_Memory] = []  # by row

    def read(
        self,
        beginnings: Sequence[Sequence[int]],
        pictures: Tensor | None,
        before: Sequence[Stretch | None],
    ) -> list[Stretch]:
        pieces = self._embed(beginnings, pictures)
        return [Unread(_after(stretch, piece)) for stretch, piece in zip(before, pieces, strict=True)]

    def join(self, rows: Sequence[Row]) -> Tensor:
        from transformers import DynamicCache

        hidden = []
        config = self._model.language_model.config.get_text_config(decoder=True)
        pieces = self._embed([row.ids for row in rows], pictures_of(rows))
        for row, piece in zip(rows, pieces, strict=True):
            memory = _Memory(DynamicCache(config=config))
            hidden.append(self._read(_after(row.stretch, piece), memory))
            self._memories.append(memory)
        return torch.cat(hidden)

    def step(self, rows: Sequence[Row]) -> Tensor:
        pieces = self._embed([row.written[-1:] for row in rows], None)
        return torch.cat([self._read(x, m) for x, m in zip(pieces, self._memories, strict=True)])

    def freeze(self, number: int) -> Stretch | None:
        return None

    def remove(self, number: int) -> None:
        last = self._memories.pop()
        if number < len(self._memories):
            self._memories[number] = last

    def _embed(self, pieces: Sequence[Sequence[int]], pictures: Tensor | None) -> list[Tensor]:
        row = self._model.embed_connected(in_one_row(pieces, self._model.device), pictures)
        return list(row.split([len(ids) for ids in pieces], dim=1))

    def _read(self, embeddings: Tensor, memory: _Memory) -> Tensor:
        """The last hidden state [1, D]."""
        hidden = self._model.read_on(embeddings, memory.cache, memory.places)
        memory.places += embeddings.shape[1]
        return hidden[:, -1]


def _after(stretch: Stretch | None, embeddings: Tensor) -> Tensor:
    """What is read: the embeddings of both."""
    if stretch is None:
        return embeddings
    assert isinstance(stretch, Unread)
    return torch.cat([stretch.embeddings, embeddings], 1)
