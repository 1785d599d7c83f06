"""One answer while it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vistune.model.decode.keys import Stretch


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
        kept: all that the row has read, if the decoder shares it: not its last token, which was only written.
    """

    ids: Sequence[int]
    most: int
    stretch: Stretch | None = None
    pictures: Tensor | None = None
    choose: Callable[[Tensor], int] | None = None
    keeps: bool = False
    written: list[int] = field(default_factory=list)
    kept: Stretch | None = None


def in_one_row(pieces: Sequence[Sequence[int]], device: torch.device) -> Tensor:
    """Ids [1, N] of all pieces, one after another."""
    return torch.tensor([[token for ids in pieces for token in ids]], device=device)


def pictures_of(rows: Sequence[Row]) -> Tensor | None:
    """Connected features [I, P, D] of the pictures in all rows' ids."""
    pictures = [row.pictures for row in rows if row.pictures is not None]
    return torch.cat(pictures) if pictures else None
