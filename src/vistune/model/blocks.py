"""FlexAttention's block lists of a packed row, counted from its trees: no mask of N x N is ever made.

The row is cut into blocks of :data:`BLOCK` tokens. For each pair of a block of queries and one of keys, the
lists say whether none, some or all of its pairs of tokens attend. The mask is evaluated where some do.

Shapes: N tokens of the row, B blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vistune.data.pack import Tree

BLOCK = 128


def block_mask(trees: Sequence[Tree], tokens: int, window: int | None, device: torch.device) -> Any:
    """Return FlexAttention's mask of a row of N ``tokens``.

    A prefix is causal; a branch attends to its tree's prefix, and causally to itself. Places beyond the trees
    attend among themselves.

    Args:
        window: how many positions back, its own included, a token may look; None: all.
    """
    from torch.nn.attention.flex_attention import BlockMask

    tree, branch, position = (_sent(x, device) for x in _places(trees, tokens))

    def allowed(_b: Tensor, _h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        seen = (tree[q] == tree[k]) & ((branch[k] == 0) | (branch[q] == branch[k])) & (q >= k)
        return seen if window is None else seen & (position[q] - position[k] < window)

    some, whole = count_blocks(trees, tokens, window)
    (some_counts, some_keys), (whole_counts, whole_keys) = (
        tuple(_sent(x, device) for x in _lists(kind)) for kind in (some, whole)
    )
    return BlockMask.from_kv_blocks(
        some_counts, some_keys, whole_counts, whole_keys, BLOCK, allowed, (tokens, tokens)
    )


def count_blocks(trees: Sequence[Tree], tokens: int, window: int | None) -> tuple[np.ndarray, np.ndarray]:
    """[B, B] twice, by blocks of queries and of keys: where some pairs attend, and where all do.

    With a window, a block that belongs to several pieces may count as "some" though all of its pairs attend.
    """
    count = -(-tokens // BLOCK)
    pairs = np.zeros((count, count), dtype=np.int64)
    partly = np.zeros((count, count), dtype=bool)
    for queries, keys, distance in _attending(trees, tokens):
        rows, q_first, q_last, q_held = _cut(queries)
        columns, k_first, k_last, k_held = _cut(keys)
        held = q_held[:, None] * k_held
        nearest, farthest = q_first[:, None] - k_last, q_last[:, None] - k_first
        if queries == keys:
            held = np.where(nearest > 0, held, 0)  # of earlier blocks, all
            np.fill_diagonal(held, q_held * (q_held + 1) // 2)
        if window is not None:
            outside, inside = nearest + distance >= window, farthest + distance < window
            partly[rows, columns] |= (held > 0) & ~outside & ~inside
            held = np.where(inside, held, 0)
        pairs[rows, columns] += held
    whole = pairs == BLOCK * BLOCK
    return (pairs > 0) & ~whole | partly & ~whole, whole


def _attending(trees: Sequence[Tree], tokens: int) -> Iterator[tuple[range, range, int]]:
    """Ranges of queries and of keys that attend: all of their pairs, or causally where both are one range.

    Third is what a difference of places lacks to a difference of positions: branches lie between.
    """
    place = 0
    for tree in trees:
        prefix = range(place, place + tree.prefix)
        place = prefix.stop
        yield prefix, prefix, 0
        for length in tree.branches:
            branch = range(place, place + length)
            place = branch.stop
            yield branch, prefix, prefix.stop - branch.start
            yield branch, branch, 0
    yield range(place, tokens), range(place, tokens), 0


def _cut(piece: range) -> tuple[slice, np.ndarray, np.ndarray, np.ndarray]:
    """The blocks that ``piece`` touches; of each, the piece's first and last place in it, and how many."""
    first, last = piece.start // BLOCK, -(-piece.stop // BLOCK) if piece else piece.start // BLOCK
    edges = np.arange(first, last) * BLOCK
    starts, stops = np.maximum(edges, piece.start), np.minimum(edges + BLOCK, piece.stop)
    return slice(first, last), starts, stops - 1, stops - starts


def _lists(blocks: np.ndarray) -> tuple[Tensor, Tensor]:
    """[1, 1, B] how many blocks of keys each block of queries has, and [1, 1, B, B] which, these first."""
    order = np.argsort(~blocks, axis=1, kind="stable")
    return torch.from_numpy(blocks.sum(1)).int()[None, None], torch.from_numpy(order).int()[None, None]


def _places(trees: Sequence[Tree], tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    """[N] each place's tree (all places beyond them are one), branch (0: prefix) and position."""
    tree = torch.full((tokens,), len(trees))
    branch, position = torch.zeros(tokens, dtype=torch.long), torch.zeros(tokens, dtype=torch.long)
    place = 0
    for number, this in enumerate(trees):
        for piece, length in enumerate((this.prefix, *this.branches)):
            here = slice(place, place + length)
            tree[here], branch[here] = number, piece
            position[here] = torch.arange(length) + (this.prefix if piece else 0)
            place += length
    position[place:] = torch.arange(tokens - place)
    return tree, branch, position


def _sent(values: Tensor, device: torch.device) -> Tensor:
    """``values`` on ``device``; a GPU is not waited for."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)
