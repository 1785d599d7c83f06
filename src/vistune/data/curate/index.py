"""Which caption has which noun phrases, on disk; memory grows with the unique phrases alone.

``phrases.txt`` holds a phrase a line, its number being its line; ``lengths.i32`` how many phrases each
caption has; ``numbers.i32`` the numbers of its phrases, caption after caption. ``state.json`` says how much
of each is whole, so that an interrupted run goes on after its last block.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from vistune.data.curate.phrases import BlockPhrases

_STATE = "state.json"
_CHUNK = 1 << 16  # captions looked at together


@dataclass(frozen=True)
class State:
    """What is whole: captions and phrase numbers written, bytes of ``phrases.txt``."""

    captions: int = 0
    numbers: int = 0
    bytes: int = 0


class IndexWriter:
    """Appends blocks of captions to an index, new or interrupted."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self.state = folder, _read_state(folder)
        sizes = (self.state.bytes, 4 * self.state.captions, 4 * self.state.numbers)
        with ExitStack() as stack:
            self._files = [stack.enter_context(open(path, "ab")) for path in _paths(folder)]
            self._close = stack.pop_all().close
        for file, size in zip(self._files, sizes, strict=True):
            file.truncate(size)
        self._places = {phrase: number for number, phrase in enumerate(_read_phrases(folder))}

    def __enter__(self) -> IndexWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, block: BlockPhrases) -> None:
        """Append the captions of a block; once this returns, an interruption cannot lose them."""
        known = len(self._places)
        places = np.array([self._places.setdefault(p, len(self._places)) for p in block.phrases], np.int32)
        new = [p for p, place in zip(block.phrases, places, strict=True) if place >= known]
        written = (
            "".join(phrase + "\n" for phrase in new).encode(),
            np.array(block.lengths, np.int32).tobytes(),
            places[np.array(block.numbers, np.int64)].tobytes(),
        )
        for file, data in zip(self._files, written, strict=True):
            file.write(data)
            file.flush()
        self.state = State(
            self.state.captions + len(block.lengths),
            self.state.numbers + len(block.numbers),
            self.state.bytes + len(written[0]),
        )
        _write_state(self._folder, self.state)


@dataclass(frozen=True)
class PhraseIndex:
    """A finished index.

    Attributes:
        phrases: texts by number.
        counts: [phrases] int64, how many captions contain each.
        lengths: [captions] int32 on disk, phrases of each caption.
        numbers: [sum(lengths)] int32 on disk, caption after caption.
    """

    folder: Path
    phrases: list[str]
    counts: np.ndarray
    lengths: np.ndarray
    numbers: np.ndarray

    @classmethod
    def open(cls, folder: Path) -> PhraseIndex:
        """Read what :class:`IndexWriter` wrote, and count."""
        phrases = list(_read_phrases(folder))
        _, lengths, numbers = _paths(folder)
        index = cls(
            folder, phrases, np.zeros(len(phrases), np.int64), mapped(lengths, "r"), mapped(numbers, "r")
        )
        for _, part in index.chunks():
            index.counts[:] += np.bincount(part, minlength=len(phrases))
        return index

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Caption numbers and phrase numbers of every (caption, phrase), a bounded number at a time."""
        at = 0
        for first in range(0, len(self.lengths), _CHUNK):
            lengths = np.asarray(self.lengths[first : first + _CHUNK])
            end = at + int(lengths.sum())
            captions = np.repeat(np.arange(first, first + len(lengths), dtype=np.int32), lengths)
            yield captions, np.asarray(self.numbers[at:end])
            at = end

    def counts_in(self, pool: np.ndarray) -> np.ndarray:
        """[phrases] how many captions of ``pool`` ([captions] bool) contain each phrase."""
        counts = np.zeros(len(self.phrases), np.int64)
        for captions, numbers in self.chunks():
            counts += np.bincount(numbers[pool[captions]], minlength=len(counts))
        return counts


class Postings:
    """The index turned round, on disk: the captions of each phrase that is in ``min_count`` or more."""

    def __init__(self, index: PhraseIndex, min_count: int) -> None:
        frequent = index.counts >= min_count
        self._ends = np.cumsum(np.where(frequent, index.counts, 0))
        self._starts = np.concatenate([[0], self._ends[:-1]]).astype(np.int64)
        total = int(self._ends[-1]) if len(self._ends) else 0
        self._captions = mapped(index.folder / "postings.i32", "w+", np.int32, total)
        free = self._starts.copy()
        for captions, numbers in index.chunks():
            wanted = frequent[numbers]
            captions, numbers = captions[wanted], numbers[wanted]
            by_phrase = np.argsort(numbers, kind="stable")
            phrases, first, sizes = np.unique(numbers[by_phrase], return_index=True, return_counts=True)
            within = np.arange(len(numbers)) - np.repeat(first, sizes)
            self._captions[np.repeat(free[phrases], sizes) + within] = captions[by_phrase]
            free[phrases] += sizes

    def __call__(self, number: int) -> np.ndarray:
        """The captions that contain a phrase, ascending."""
        return np.asarray(self._captions[self._starts[number] : self._ends[number]])


def mapped(path: Path, mode: str, dtype: type = np.int32, size: int | None = None) -> np.ndarray:
    """A file as an array; in memory alone where it is empty, which no file can be mapped as."""
    if size == 0 or (size is None and path.stat().st_size == 0):
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode, shape=None if size is None else (size,))  # type: ignore[call-overload]


def _paths(folder: Path) -> tuple[Path, Path, Path]:
    return folder / "phrases.txt", folder / "lengths.i32", folder / "numbers.i32"


def _read_phrases(folder: Path) -> Iterator[str]:
    with open(_paths(folder)[0], encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def _read_state(folder: Path) -> State:
    """What is whole; nothing, where a file is shorter than it should be."""
    path = folder / _STATE
    if not path.exists():
        return State()
    state = State(**json.loads(path.read_text(encoding="utf-8")))
    sizes = (state.bytes, 4 * state.captions, 4 * state.numbers)
    files = zip(_paths(folder), sizes, strict=True)
    return state if all(p.exists() and p.stat().st_size >= size for p, size in files) else State()


def _write_state(folder: Path, state: State) -> None:
    draft = folder / f"{_STATE}.new"
    draft.write_text(json.dumps(asdict(state)), encoding="utf-8")
    os.replace(draft, folder / _STATE)
