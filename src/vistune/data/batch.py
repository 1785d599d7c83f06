"""What one micro-batch is made of: a packed row or padded dialogues as tensors, and their pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistune.data.pack import Row, Tree, padded_length


@dataclass(frozen=True)
class Batch:
    """One row of N places, the last of which may be filled up, or B dialogues alone, padded to T tokens; M
    places predict what is trained on.

    Attributes:
        ids, positions: [1, N], or [B, T].
        sources, targets: [M]; the token ``targets[m]`` is predicted at place ``sources[m]``, counted along
            the rows.
        predicting: the places of ``sources``, each once: a picture's last patch may begin several answers.
        patches: [K * P], the places of K pictures' patches, in order, counted along the rows.
        pixels: [I, 3, H, W], or None where the row has no picture or ``features`` are given.
        features: of the frozen encoder, [I, patches, width].
        picture_order: [K], which of the I pictures stands in each place of one; None: in their order.
        mask: [B, T], 0 where nothing but padding stands; None for a packed row.
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
    mask: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=True)
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """Return the batch in memory from which a GPU copies while it computes."""
        pinned: dict[str, Any] = {
            name: value.pin_memory() for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        return replace(self, **pinned)

    @property
    def tokens(self) -> int:
        """How many are computed; padding counts, the few places that fill a packed row up do not."""
        return sum(tree.tokens for tree in self.trees) if self.mask is None else self.ids.numel()


def to_batch(row: Row) -> Batch:
    """A row as tensors, without its pictures, filled up to a length that kernels like.

    What fills it up repeats the last token, which is no picture's, and belongs to no tree.
    """
    fill = padded_length(len(row.ids)) - len(row.ids)
    return Batch(
        torch.from_numpy(np.pad(row.ids, (0, fill), mode="edge"))[None],
        torch.from_numpy(np.pad(row.positions, (0, fill)))[None],
        torch.from_numpy(row.sources),
        torch.from_numpy(row.targets),
        torch.from_numpy(np.unique(row.sources)),
        torch.from_numpy(row.patches),
        row.trees,
        sum(len(tree.samples) for tree in row.trees),
    )


def to_padded_batch(row: Row, image_token: int) -> Batch:
    """A row's dialogues, which share nothing, each by itself and padded at its end; without its pictures."""
    lengths = np.array([tree.tokens for tree in row.trees])
    ends = lengths.cumsum()
    filler = 0 if image_token else 1  # padding is no picture's place
    mask = np.arange(lengths.max()) < lengths[:, None]
    ids, positions = np.full(mask.shape, filler), np.zeros(mask.shape, np.int64)
    ids[mask], positions[mask] = row.ids[: ends[-1]], row.positions[: ends[-1]]
    places = np.flatnonzero(mask)  # of the row's tokens, counted along the padded rows
    return replace(
        to_batch(row),
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        sources=torch.from_numpy(places[row.sources]),
        predicting=torch.from_numpy(places[np.unique(row.sources)]),
        patches=torch.from_numpy(places[row.patches]),
        mask=torch.from_numpy(mask.astype(np.int64)),
    )


def picture_order(pictures: Sequence[str]) -> tuple[list[str], Tensor | None]:
    """Each picture once, and for each place which of them; None where every place has its own."""
    unique = list(dict.fromkeys(pictures))
    if len(unique) == len(pictures):
        return unique, None
    number = {name: n for n, name in enumerate(unique)}
    return unique, torch.tensor([number[name] for name in pictures])
