"""Image-tree packing: dialogues on one picture share its computation, and nothing is padded.

A *tree* is a shared prefix (system text, question's beginning, picture) and its *branches*, one for each
dialogue. A branch attends to the prefix and to itself, and its positions go on where the prefix ends. Trees
stand one after another in a *row*, which is what is computed at a time.

Shapes: N tokens of a row, M positions that are trained on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np

from vistune.conversation import IGNORE_INDEX
from vistune.template import Encoded

Rows: TypeAlias = Literal["packed", "padded", "single"]


@dataclass(frozen=True)
class Tree:
    """Samples (by number) that share ``prefix`` leading tokens; ``branches`` are the lengths of the rest.

    A sample that shares with nobody is one branch without a prefix.
    """

    samples: tuple[int, ...]
    prefix: int
    branches: tuple[int, ...]

    @cached_property
    def tokens(self) -> int:
        return self.prefix + sum(self.branches)


@dataclass(frozen=True)
class Row:
    """Trees, flattened.

    ``ids``, ``positions``: [N]. The token ``targets[m]`` is predicted at place ``sources[m]``, both [M]; a
    prefix's last place may predict the first token of several branches. ``pictures`` are files in the order
    of their places; ``patches`` are the places of their patches.
    """

    trees: tuple[Tree, ...]
    ids: np.ndarray
    positions: np.ndarray
    sources: np.ndarray
    targets: np.ndarray
    pictures: list[str]
    patches: np.ndarray


def shared_length(ids: np.ndarray, labels: np.ndarray, image_token: int) -> int:
    """How many leading tokens may be shared: up to the last patch before anything is trained on.

    0 where no picture stands there. The first trained token itself is predicted by the token before it, so
    a picture that an answer follows at once is shared, too.
    """
    trained = np.flatnonzero(labels != IGNORE_INDEX)
    beginning = ids[: trained[0]] if len(trained) else ids
    patches = np.flatnonzero(beginning == image_token)
    return int(patches[-1]) + 1 if len(patches) else 0


def plant(
    samples: Iterable[int], lengths: np.ndarray, prefixes: np.ndarray, groups: np.ndarray
) -> list[Tree]:
    """Make trees of neighbouring samples of one group (``groups[n]`` is equal where prefixes are)."""
    trees: list[Tree] = []
    together: list[int] = []
    for sample in map(int, samples):
        if together and groups[sample] != groups[together[0]]:
            trees.append(_tree(together, lengths, prefixes))
            together = []
        together.append(sample)
    if together:
        trees.append(_tree(together, lengths, prefixes))
    return trees


def _tree(samples: Sequence[int], lengths: np.ndarray, prefixes: np.ndarray) -> Tree:
    prefix = int(prefixes[samples[0]]) if len(samples) > 1 else 0
    return Tree(tuple(samples), prefix, tuple(int(lengths[sample]) - prefix for sample in samples))


def make_rows(how: Rows, trees: Sequence[Tree], room: int, multiple: int = 1) -> list[list[Tree]]:
    """What is computed at a time: packed rows, padded batches, or batches of one dialogue."""
    if how == "packed":
        return fill_rows(trees, room, multiple)
    return fill_padded(trees, room if how == "padded" else 1, multiple)


def fill_rows(trees: Sequence[Tree], room: int, multiple: int = 1) -> list[list[Tree]]:
    """Distribute trees over rows of at most ``room`` tokens, as few as may be, about equally full.

    A tree that is larger is split, its prefix computed again; a single sample that is larger has a row of its
    own. The number of rows is a multiple of ``multiple`` (the processes); rows may be empty for that.
    """
    parts = [part for tree in trees for part in _split(tree, room)]
    parts.sort(key=lambda tree: -tree.tokens)
    count = min(len(parts), -(-sum(part.tokens for part in parts) // room))
    while True:
        count = -(-count // multiple) * multiple
        rows = _distribute(parts, count)
        if all(len(row) <= 1 or sum(tree.tokens for tree in row) <= room for row in rows):
            return rows
        count += 1


def fill_padded(trees: Sequence[Tree], room: int, multiple: int = 1) -> list[list[Tree]]:
    """Distribute trees of one sample each over batches that are padded to their longest: of like lengths, and
    at most ``room`` tokens with the padding.

    A longer sample is a batch of its own. The number of batches is a multiple of ``multiple``; batches may be
    empty for that.
    """
    rows: list[list[Tree]] = []
    for tree in sorted(trees, key=lambda tree: -tree.tokens):
        if not rows or (len(rows[-1]) + 1) * rows[-1][0].tokens > room:
            rows.append([])
        rows[-1].append(tree)
    return rows + [[] for _ in range(-len(rows) % multiple)]


def _distribute(parts: Sequence[Tree], count: int) -> list[list[Tree]]:
    """Each part, the largest first, to the emptiest row."""
    rows: list[list[Tree]] = [[] for _ in range(count)]
    filled = [0] * count
    for part in parts:
        emptiest = filled.index(min(filled))
        rows[emptiest].append(part)
        filled[emptiest] += part.tokens
    return rows


def _split(tree: Tree, room: int) -> list[Tree]:
    """The tree itself, or trees of its samples that each have room."""
    if tree.tokens <= room or len(tree.samples) == 1:
        return [tree]
    parts: list[list[int]] = [[]]
    used = tree.prefix
    for number, length in enumerate(tree.branches):
        if parts[-1] and used + length > room:
            parts.append([])
            used = tree.prefix
        parts[-1].append(number)
        used += length
    return [_part(tree, numbers) for numbers in parts]


def _part(tree: Tree, numbers: Sequence[int]) -> Tree:
    if len(numbers) == 1:
        return Tree((tree.samples[numbers[0]],), 0, (tree.prefix + tree.branches[numbers[0]],))
    return Tree(
        tuple(tree.samples[n] for n in numbers), tree.prefix, tuple(tree.branches[n] for n in numbers)
    )


def padded_length(tokens: int) -> int:
    """Return how many places a row of ``tokens`` is filled up to.

    Kernels are fastest at whole multiples, and some (oneDNN) make code for each length that they meet.
    """
    step = 1 << (tokens - 1).bit_length() if tokens <= 64 else 64 if tokens <= 512 else 256
    return -(-tokens // step) * step


def flatten(trees: Sequence[Tree], samples: Sequence[Sequence[Encoded]], image_token: int) -> Row:
    """Write trees into one row.

    Args:
        samples: for each tree its samples, in the tree's order.
    """
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    pictures: list[str] = []
    place = 0  # where the next piece begins in the row
    for tree, members in zip(trees, samples, strict=True):
        root = place
        shared = np.asarray(members[0].ids[: tree.prefix], dtype=np.int64)
        in_prefix = int((shared == image_token).sum())
        ids.append(shared)
        positions.append(np.arange(tree.prefix))
        place += tree.prefix
        first = _pictures_in(members[0], in_prefix, image_token)
        pictures += members[0].pictures[:first]
        for member in members:
            labels = np.asarray(member.labels, dtype=np.int64)
            trained = np.flatnonzero(labels[1:] != IGNORE_INDEX)  # the place before each trained token
            sources.append(np.where(trained < tree.prefix, root + trained, place - tree.prefix + trained))
            targets.append(labels[1:][trained])
            ids.append(np.asarray(member.ids[tree.prefix :], dtype=np.int64))
            positions.append(np.arange(tree.prefix, len(member.ids)))
            pictures += member.pictures[first:]
            place += len(member.ids) - tree.prefix
    whole = np.concatenate(ids)
    return Row(
        tuple(trees),
        whole,
        np.concatenate(positions),
        np.concatenate(sources),
        np.concatenate(targets),
        pictures,
        np.flatnonzero(whole == image_token),
    )


def _pictures_in(sample: Encoded, patches: int, image_token: int) -> int:
    """How many of the sample's pictures its first ``patches`` image tokens are."""
    return patches * len(sample.pictures) // max(1, sample.ids.count(image_token))
