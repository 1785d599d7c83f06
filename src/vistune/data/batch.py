"""Encoded conversations -> padded batches, in an order that a seed fixes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vistune.conversation import IGNORE_INDEX
from vistune.data.pixels import PixelStore
from vistune.template import Encoded

_GROUPING = 16  # batches whose samples are sorted by length together, to pad less


@dataclass(frozen=True)
class Batch:
    """B rows of T positions, padded on the right; N pictures in reading order.

    ``ids``, ``labels``, ``attention_mask``: [B, T]; ``pixels``: [N, 3, H, W] or None.
    """

    ids: Tensor
    labels: Tensor
    attention_mask: Tensor
    pixels: Tensor | None

    def to(self, device: torch.device) -> Batch:
        pixels = None if self.pixels is None else self.pixels.to(device)
        return Batch(self.ids.to(device), self.labels.to(device), self.attention_mask.to(device), pixels)


def order(lengths: Sequence[int], batch_size: int, rng: random.Random) -> list[list[int]]:
    """Shuffled batches of sample numbers, like lengths together; every sample once.

    A last batch that is not full is kept.
    """
    numbers = list(range(len(lengths)))
    rng.shuffle(numbers)
    window = batch_size * _GROUPING
    batches = []
    for start in range(0, len(numbers), window):
        group = sorted(numbers[start : start + window], key=lambda number: lengths[number])
        batches += [group[i : i + batch_size] for i in range(0, len(group), batch_size)]
    rng.shuffle(batches)
    return batches


def pad(samples: Sequence[Encoded], pad_token: int, pixels: PixelStore | None) -> Batch:
    """Put samples of different lengths into one batch."""
    longest = max(len(sample.ids) for sample in samples)
    shape = (len(samples), longest)
    ids = torch.full(shape, pad_token, dtype=torch.long)
    labels = torch.full(shape, IGNORE_INDEX, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, sample in enumerate(samples):
        length = len(sample.ids)
        ids[row, :length] = torch.tensor(sample.ids)
        labels[row, :length] = torch.tensor(sample.labels)
        mask[row, :length] = 1
    files = [file for sample in samples for file in sample.pictures]
    return Batch(ids, labels, mask, pixels.load(files) if pixels is not None and files else None)


def epochs(samples: Sequence[Encoded], batch_size: int, seed: int) -> Iterator[list[Encoded]]:
    """Batches without end: epoch after epoch, each in its own order.

    Raises:
        ValueError: there is no sample.
    """
    if not samples:
        raise ValueError("no samples to make batches of")
    lengths = [len(sample.ids) for sample in samples]
    epoch = 0
    while True:
        for numbers in order(lengths, batch_size, random.Random(f"order/{seed}/{epoch}")):
            yield [samples[number] for number in numbers]
        epoch += 1
