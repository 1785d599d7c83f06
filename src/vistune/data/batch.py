"""What one micro-batch is made of: a packed row as tensors, and the pictures it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistune.data.pack import Row, Tree


@dataclass(frozen=True)
class Batch:
    """One row of N tokens; M places predict what is trained on.

    Attributes:
        ids, positions: [1, N].
        sources, targets: [M]; the token ``targets[m]`` is predicted at place ``sources[m]``.
        predicting: the places of ``sources``, each once: a picture's last patch may begin several answers.
        patches: [K * P], the places of K pictures' patches, in order.
        pixels: [I, 3, H, W], or None where the row has no picture or ``features`` are given.
        features: of the frozen encoder, [I, patches, width].
        picture_order: [K], which of the I pictures stands in each place of one; None: in their order.
        samples: how many.
    """

    ids: Tensor
    positions: Tensor
    sources: Tensor
    targets: Tensor
    predicting: Tensor
    patches: Tensor
    trees: tuple[Tree, ...]
    samples: int
    pixels: Tensor | None = None
    features: Tensor | None = None
    picture_order: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    @property
    def tokens(self) -> int:
        return self.ids.shape[1]


def to_batch(row: Row) -> Batch:
    """A row as tensors, without its pictures."""
    return Batch(
        torch.from_numpy(row.ids)[None],
        torch.from_numpy(row.positions)[None],
        torch.from_numpy(row.sources),
        torch.from_numpy(row.targets),
        torch.from_numpy(np.unique(row.sources)),
        torch.from_numpy(row.patches),
        row.trees,
        sum(len(tree.samples) for tree in row.trees),
    )


def picture_order(pictures: Sequence[str]) -> tuple[list[str], Tensor | None]:
    """Each picture once, and for each place which of them; None where every place has its own."""
    unique = list(dict.fromkeys(pictures))
    if len(unique) == len(pictures):
        return unique, None
    number = {name: n for n, name in enumerate(unique)}
    return unique, torch.tensor([number[name] for name in pictures])
