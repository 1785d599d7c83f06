"""What the probe reads: a few random samples, packed as trees or each alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from vistune.conversation import IGNORE_INDEX
from vistune.data.pack import Row, Tree, flatten
from vistune.model.twin import VOCABULARY
from vistune.template import Encoded

PICTURE = VOCABULARY - 1  # a token that the probe never reads
# Prefix and branches of each tree: longer than the twin's windows, chunks and convolutions.
TREES = ((7, (9, 5)), (4, (6, 12)), (0, (13,)))


def trees() -> list[Tree]:
    """Return the samples as trees: with a shared beginning, and without."""
    number, found = 0, []
    for prefix, branches in TREES:
        found.append(Tree(tuple(range(number, number + len(branches))), prefix, branches))
        number += len(branches)
    return found


def alone() -> Iterator[list[Tree]]:
    """Yield each sample as a row of its own, nothing shared."""
    return ([Tree((number,), 0, (len(ids),))] for number, ids in enumerate(sequences()))


def row(trees: Sequence[Tree]) -> Row:
    """Return the trees as one packed row."""
    ids = sequences()
    samples = [[_sample(ids[number].tolist()) for number in tree.samples] for tree in trees]
    return flatten(trees, samples, PICTURE)


def _sample(ids: list[int]) -> Encoded:
    """Trained on in its last third."""
    start = 2 * len(ids) // 3
    return Encoded(ids, [IGNORE_INDEX] * start + ids[start:], [])


def sequences() -> list[Tensor]:
    """Return the ids of each sample, always the same; those of a tree begin alike."""
    rng = np.random.default_rng(0)
    found = []
    for prefix, branches in TREES:
        shared = rng.integers(5, PICTURE, prefix)
        found += [np.concatenate([shared, rng.integers(5, PICTURE, branch)]) for branch in branches]
    return [torch.from_numpy(ids) for ids in found]
