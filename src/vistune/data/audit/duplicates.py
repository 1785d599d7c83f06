"""Near-duplicates: records whose answers share most of their word shingles."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from zlib import crc32

import numpy as np

from vistune.errors import VistuneError

if TYPE_CHECKING:
    from datasketch import MinHash

SHINGLE, FEWEST_WORDS = 3, 10
_PERMUTATIONS = 128
_EXCERPT = 160  # characters


@dataclass
class Group:
    """Records that resemble the first of them."""

    ids: list[str]
    excerpt: str
    similarity: float = 1.0  # lowest Jaccard similarity to the first, over shingles
    shingles: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint32), repr=False)


class NearDuplicates:
    """Groups texts as they come; each is compared with the first of every group that it may belong to.

    Candidates are found by locality-sensitive hashing of MinHash signatures (Broder 1997) and confirmed by
    the exact Jaccard similarity of three-word shingles. Texts of fewer than ten words are left out: short
    answers resemble each other rightly.

    Raises:
        VistuneError: datasketch is not installed.
    """

    def __init__(self, threshold: float, seed: int) -> None:
        try:
            from datasketch import MinHash, MinHashLSH
        except ImportError as error:
            raise VistuneError(
                "Near-duplicates need datasketch. Install it: pip install 'vistune[audit]'."
            ) from error
        self._threshold = threshold
        self._blank = MinHash(_PERMUTATIONS, seed + 1, hashfunc=int)
        self._index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS)
        self._groups: list[Group] = []
        self._exact: dict[bytes, int] = {}
        self.compared = self.left_out = 0

    def add(self, name: str, answers: Sequence[str]) -> Group | None:
        """The group that the record joins, or None where it is like none before."""
        text = "\n".join(answers)
        words = re.findall(r"\w+", text.lower())
        if len(words) < FEWEST_WORDS:
            self.left_out += 1
            return None
        self.compared += 1
        shingles = _shingles(words)
        number, similarity = self._find(shingles)
        if number is None:
            self._groups.append(Group([name], text[:_EXCERPT], shingles=shingles))
            return None
        group = self._groups[number]
        group.ids.append(name)
        group.similarity = min(group.similarity, similarity)
        return group

    def groups(self) -> list[Group]:
        """Groups of two and more, the largest first."""
        return sorted((g for g in self._groups if len(g.ids) > 1), key=lambda g: (-len(g.ids), g.ids[0]))

    def _find(self, shingles: np.ndarray) -> tuple[int | None, float]:
        """The most similar group, or the place for a new one in the index."""
        key = shingles.tobytes()
        if key in self._exact:
            return self._exact[key], 1.0
        signature = self._sign(shingles)
        best, similarity = None, 0.0
        for number in sorted(self._index.query(signature)):
            shared = _jaccard(shingles, self._groups[number].shingles)
            if shared >= self._threshold and shared > similarity:
                best, similarity = number, shared
        if best is None:
            number = len(self._groups)
            self._exact[key] = number
            self._index.insert(number, signature)
        return best, similarity

    def _sign(self, shingles: np.ndarray) -> MinHash:
        signature = self._blank.copy()  # a new one would draw its permutations again
        signature.update_batch(shingles.tolist())
        return signature


def _shingles(words: Sequence[str]) -> np.ndarray:
    """Sorted 32-bit hashes of all runs of three words."""
    runs = {crc32(" ".join(words[i : i + SHINGLE]).encode()) for i in range(len(words) - SHINGLE + 1)}
    return np.array(sorted(runs), dtype=np.uint32)


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    shared = len(np.intersect1d(one, other, assume_unique=True))
    return shared / (len(one) + len(other) - shared)
