"""Keys and values of what was read already.

A *stretch* is read once and never changes; rows that begin alike share it. What comes after it is a row's own
and lies in *slots*, beside that of the other rows, so that one step of all rows is a few large products.

Shapes: G key-value heads, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SPARE = 64  # places for what a row will write, before its slot must grow
# A stretch is copied into slots where that costs less than looking at it apart in each step: one of so few
# places, or one of so few bytes that a single row goes on from.
_SHORT, _SMALL = 128, 2**26


class Stretch:
    """The beginning of one or more rows: each layer's keys and values, [1, G, length, d].

    Args:
        before: a stretch that this one goes on from; its keys and values are copied.
    """

    def __init__(self, length: int, before: Stretch | None = None) -> None:
        self.length: int = length + (before.length if before else 0)
        self.keys: dict[int, Tensor] = {}
        self.values: dict[int, Tensor] = {}
        self._before = before

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keep one layer's keys and values; returns those of the whole stretch."""
        if self._before:
            key = torch.cat([self._before.keys[layer], key], 2)
            value = torch.cat([self._before.values[layer], value], 2)
        # Copies: what is given is a part of the whole packed row, which would stay in memory with it.
        self.keys[layer], self.values[layer] = key.clone(), value.clone()
        return self.keys[layer], self.values[layer]

    def close(self) -> None:
        """All layers are there; what it went on from is no longer needed."""
        self._before = None

    def first(self, length: int) -> Stretch:
        """Its first places, as a stretch; nothing is copied."""
        if length == self.length:
            return self
        part = Stretch(length)
        part.keys = {layer: key[:, :, :length] for layer, key in self.keys.items()}
        part.values = {layer: value[:, :, :length] for layer, value in self.values.items()}
        return part

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(x.nbytes for kept in (self.keys, self.values) for x in kept.values())


class Slots:
    """Keys and values that are rows' own: each layer's [slots, G, places, d], and how many places count.

    Slots are dense: what is freed is filled with the last one.
    """

    def __init__(self) -> None:
        self.stretches: list[Stretch | None] = []
        self.lengths: list[int] = []
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._places = 0

    def __len__(self) -> int:
        return len(self.lengths)

    def add(self, stretches: Sequence[Stretch | None], added: Sequence[int]) -> None:
        """New slots that go on from ``stretches``, with room for so many places after each."""
        first = len(self)
        copied = [stretch if _worth_copying(stretch, stretches) else None for stretch in stretches]
        self.stretches += [None if copy else stretch for stretch, copy in zip(stretches, copied, strict=True)]
        self.lengths += [0] * len(stretches)
        copies = [copy.length if copy else 0 for copy in copied]
        self.reserve([0] * first + [old + new for old, new in zip(copies, added, strict=True)])
        for slot, copy in enumerate(copied, first):
            if copy is not None:
                for layer, key in copy.keys.items():
                    self.extend(slot, layer, key, copy.values[layer])
                self.lengths[slot] = copy.length

    def start(self, slot: int) -> int:
        """How many places were read before the slot's next one, the stretch's included."""
        stretch = self.stretches[slot]
        return self.lengths[slot] + (stretch.length if stretch else 0)

    def reserve(self, added: Sequence[int]) -> None:
        """Make room for so many more places of each slot."""
        wanted = max(length + more for length, more in zip(self.lengths, added, strict=True))
        if wanted > self._places:
            self._places = max(self._places * 5 // 4, wanted + _SPARE)
        for layer, kept in self._layers.items():
            self._layers[layer] = tuple(self._room(x) for x in kept)  # type: ignore[assignment]

    def extend(self, slot: int, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Write [1, G, n, d] at the slot's end; returns all keys and values that the slot may look at."""
        keys, values = self._of(layer, key, value)
        start, end = self.lengths[slot], self.lengths[slot] + key.shape[2]
        keys[slot, :, start:end], values[slot, :, start:end] = key[0], value[0]
        own = keys[slot : slot + 1, :, :end], values[slot : slot + 1, :, :end]
        stretch = self.stretches[slot]
        if stretch is None:
            return own
        return torch.cat([stretch.keys[layer], own[0]], 2), torch.cat([stretch.values[layer], own[1]], 2)

    def append(
        self, layer: int, key: Tensor, value: Tensor, slots: Tensor, ends: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Write one place [slots, G, d] at the ``ends`` of all ``slots``; returns the layer's own keys and
        values [slots, G, places, d]."""
        keys, values = self._of(layer, key[:, :, None], value[:, :, None])
        keys[slots, :, ends], values[slots, :, ends] = key, value
        return keys[: len(self)], values[: len(self)]

    def grow(self, added: Sequence[int]) -> None:
        """So many places of each slot count from now on."""
        self.lengths = [length + more for length, more in zip(self.lengths, added, strict=True)]

    def remove(self, slot: int) -> None:
        """Free a slot; the last one takes its number."""
        last = len(self) - 1
        if slot < last:
            for keys, values in self._layers.values():
                keys[slot], values[slot] = keys[last], values[last]
            self.lengths[slot], self.stretches[slot] = self.lengths[last], self.stretches[last]
        self.lengths.pop()
        self.stretches.pop()
        if not self.lengths:
            self._layers, self._places = {}, 0

    def freeze(self, slot: int) -> Stretch:
        """A stretch of all that the slot has read."""
        stretch = Stretch(self.lengths[slot], self.stretches[slot])
        for layer, (keys, values) in self._layers.items():
            own = slice(slot, slot + 1), slice(None), slice(0, self.lengths[slot])
            stretch.extend(layer, keys[own], values[own])
        stretch.close()
        return stretch

    def _of(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        if layer not in self._layers:
            empty = (x.new_zeros((0, x.shape[1], self._places, x.shape[3])) for x in (key, value))
            self._layers[layer] = tuple(self._room(x) for x in empty)  # type: ignore[assignment]
        return self._layers[layer]

    def _room(self, kept: Tensor) -> Tensor:
        slots, places = kept.shape[0], kept.shape[2]
        if slots >= len(self) and places >= self._places:
            return kept
        wanted = slots if slots >= len(self) else max(2 * slots, len(self))
        roomy = kept.new_zeros((wanted, kept.shape[1], self._places, kept.shape[3]))
        roomy[:slots, :, :places] = kept
        return roomy


def _worth_copying(stretch: Stretch | None, among: Sequence[Stretch | None]) -> bool:
    """Whether a slot gets a copy of the stretch that it goes on from, as ``among`` others do from theirs."""
    if stretch is None:
        return False
    alone = sum(other is stretch for other in among) == 1
    return stretch.length <= _SHORT or (alone and stretch.bytes <= _SMALL)
