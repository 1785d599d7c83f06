"""What was read before, kept for whoever begins alike: the next turn of a conversation, or another one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from vistune.model.decode.keys import Stretch

_MOST = 1000  # entries; each is compared with what comes
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


class Prefixes:
    """Stretches by what they read; the least recently used leave first.

    Args:
        capacity: bytes of keys and values at most.
    """

    def __init__(self, capacity: int) -> None:
        self.bytes = 0
        self._capacity = capacity
        self._kept: OrderedDict[bytes, tuple[np.ndarray, Stretch]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, marks: np.ndarray) -> Stretch | None:
        """The longest beginning of ``marks`` that was read, short of all of it: a row must have something to
        read. It may be the beginning of something longer."""
        best, key = 0, b""
        for name, (known, _) in self._kept.items():
            alike = _alike(known, marks[:-1])
            if alike > best:
                best, key = alike, name
        if not best:
            return None
        self._kept.move_to_end(key)
        return self._kept[key][1].first(best)

    def keep(self, marks: np.ndarray, stretch: Stretch) -> None:
        """Remember a stretch; what it goes on from need not be remembered apart.

        Args:
            marks: [stretch.length].
        """
        if stretch.bytes > self._capacity or any(_begins(known, marks) for known, _ in self._kept.values()):
            return
        for name in [name for name, (known, _) in self._kept.items() if _begins(marks, known)]:
            self._drop(name)
        self._kept[marks.tobytes()] = marks, stretch
        self.bytes += stretch.bytes
        while self.bytes > self._capacity or len(self) > _MOST:
            self._drop(next(iter(self._kept)))

    def _drop(self, name: bytes) -> None:
        self.bytes -= self._kept.pop(name)[1].bytes


def _alike(a: np.ndarray, b: np.ndarray) -> int:
    """How many places two rows have in common at their beginning."""
    shorter = min(len(a), len(b))
    apart = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(apart[0]) if len(apart) else shorter


def _begins(whole: np.ndarray, part: np.ndarray) -> bool:
    return len(part) <= len(whole) and _alike(whole, part) == len(part)
