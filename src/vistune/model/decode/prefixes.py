"""What was read before, kept for whoever begins alike: the next turn of a conversation, or another one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vistune.model.decode.keys import Stretch

_SIGN = np.int64(-(2**63))  # marks the places of pictures, so that none is like a token's id


def marks_of(ids: Sequence[int], image_token: int, pictures: Sequence[bytes]) -> np.ndarray:
    """What each place reads, as numbers [T]: a token's id, or a picture's digest and nothing like an id.

    Args:
        pictures: a digest of 8 bytes or more of each picture, in reading order; their places are alike in
            number.
    """
    marks = np.array(ids, dtype=np.int64)
    places = np.flatnonzero(marks == image_token)
    if len(pictures):
        digests = [np.frombuffer(digest[:8], dtype=np.int64)[0] | _SIGN for digest in pictures]
        marks[places] = np.repeat(np.array(digests, dtype=np.int64), len(places) // len(pictures))
    return marks


@dataclass(eq=False)
class _Node:
    """A stretch of marks in a tree; only leaves hold keys and values, those from the root to their end."""

    edge: np.ndarray
    parent: _Node | None
    stretch: Stretch | None = None
    children: dict[int, _Node] = field(default_factory=dict)

    def add(self, child: _Node) -> None:
        child.parent = self
        self.children[int(child.edge[0])] = child

    def leaf(self) -> _Node:
        """Any leaf below: all of them begin alike up to here."""
        node = self
        while node.children:
            node = next(iter(node.children.values()))
        return node


class Prefixes:
    """Stretches by what they read, in a radix tree; the least recently used leave first.

    Args:
        capacity: bytes of keys and values at most.
    """

    def __init__(self, capacity: int) -> None:
        self.bytes = 0
        self._capacity = capacity
        self._root = _Node(np.zeros(0, dtype=np.int64), None)
        self._kept: OrderedDict[_Node, None] = OrderedDict()  # the leaves

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, marks: np.ndarray) -> Stretch | None:
        """The longest beginning of ``marks`` that was read, short of all of it: a row must have something to
        read. It may be the beginning of something longer."""
        node, depth, _ = self._walk(marks[:-1])
        if depth == 0:
            return None
        leaf = node.leaf()
        self._kept.move_to_end(leaf)
        assert leaf.stretch is not None
        return leaf.stretch.first(depth)

    def keep(self, marks: np.ndarray, stretch: Stretch) -> None:
        """Remember a stretch; what it goes on from need not be remembered apart.

        Args:
            marks: [stretch.length].
        """
        node, depth, along = self._walk(marks)
        if stretch.bytes > self._capacity or depth == len(marks):
            return
        if along < len(node.edge):
            node = _split(node, along)
        elif node.stretch is not None:
            self._forget(node)
        leaf = _Node(marks[depth:], node, stretch)
        node.add(leaf)
        self._kept[leaf] = None
        self.bytes += stretch.bytes
        while self.bytes > self._capacity:
            self._drop(next(iter(self._kept)))

    def _walk(self, marks: np.ndarray) -> tuple[_Node, int, int]:
        """The node where ``marks`` leave the tree, how many of them led there, and how many of its edge."""
        node, depth, along = self._root, 0, 0
        while depth < len(marks) and (child := node.children.get(int(marks[depth]))):
            node, along = child, _alike(child.edge, marks[depth:])
            depth += along
            if along < len(child.edge):
                break
        return node, depth, along

    def _forget(self, leaf: _Node) -> None:
        assert leaf.stretch is not None
        self.bytes -= leaf.stretch.bytes
        leaf.stretch = None
        del self._kept[leaf]

    def _drop(self, leaf: _Node) -> None:
        self._forget(leaf)
        node: _Node = leaf
        while node.parent and not node.children:
            del node.parent.children[int(node.edge[0])]
            node = node.parent


def _split(node: _Node, place: int) -> _Node:
    """Part a node's edge in two; returns the upper one."""
    assert node.parent
    upper = _Node(node.edge[:place], None)
    node.parent.add(upper)
    node.edge = node.edge[place:]
    upper.add(node)
    return upper


def _alike(a: np.ndarray, b: np.ndarray) -> int:
    """How many places two rows have in common at their beginning."""
    shorter = min(len(a), len(b))
    apart = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(apart[0]) if len(apart) else shorter
