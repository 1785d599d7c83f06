"""Encoded samples on disk: an Arrow file, mapped into memory, and a few numbers of each sample.

A picture's patches are one token on disk. Labels are kept as ranges of trained positions.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import compute

from vistune.conversation import IGNORE_INDEX
from vistune.data.pack import shared_length
from vistune.template import Encoded

_SAMPLES, _NUMBERS, _NAMES = "samples.arrow", "numbers.npz", "pictures.arrow"
_ROWS = 1024  # of a batch; all but the last have so many, so that a row is found by division
_NUMBER_LIST = pyarrow.list_(pyarrow.int32())
_SCHEMA = pyarrow.schema(
    [
        ("ids", _NUMBER_LIST),
        ("trained", _NUMBER_LIST),  # first and last + 1 of each range, patches expanded
        ("pictures", pyarrow.list_(pyarrow.string())),
        ("place", pyarrow.string()),
    ]
)


class SampleWriter:
    """Writes samples one by one into ``folder``; complete after :meth:`close`."""

    def __init__(self, folder: Path, image_token: int, patches: int) -> None:
        self._folder, self._image_token, self._patches = folder, image_token, patches
        self._file = pyarrow.OSFile(str(folder / _SAMPLES), "wb")
        self._writer = pyarrow.ipc.new_stream(self._file, _SCHEMA)
        self._rows: list[tuple[np.ndarray, np.ndarray, list[str], str]] = []
        self._names: dict[str, int] = {}
        self._groups: dict[bytes, int] = {}
        self._alone = 0
        self._numbers = {name: array("i") for name in ("lengths", "supervised", "prefixes", "files")}
        self._group_of = array("q")
        self._shown, self._shown_end = array("i"), array("q", [0])

    def add(self, sample: Encoded, file: int, place: str) -> None:
        """Append a sample of the ``file``-th file that stands at ``place``."""
        ids, labels = np.array(sample.ids, dtype=np.int32), np.array(sample.labels, dtype=np.int32)
        learned = labels != IGNORE_INDEX
        trained = np.flatnonzero(np.diff(learned, prepend=False, append=False)).astype(np.int32)
        prefix = shared_length(ids, labels, self._image_token)
        self._rows.append((self._folded(ids), trained, sample.pictures, place))
        supervised = int(np.count_nonzero(learned))
        for name, number in zip(self._numbers, (len(ids), supervised, prefix, file), strict=True):
            self._numbers[name].append(number)
        self._group_of.append(self._group(ids[:prefix], sample.pictures))
        self._shown.extend(self._names.setdefault(name, len(self._names)) for name in sample.pictures)
        self._shown_end.append(len(self._shown))
        if len(self._rows) == _ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._file.close()
        names = pyarrow.table({"name": pyarrow.array(list(self._names), pyarrow.string())})
        with pyarrow.ipc.new_stream(str(self._folder / _NAMES), names.schema) as stream:
            stream.write_table(names)
        arrays = {name: np.array(values, dtype=np.int32) for name, values in self._numbers.items()}
        np.savez(
            self._folder / _NUMBERS,
            **arrays,  # type: ignore[arg-type]
            groups=np.array(self._group_of, dtype=np.int64),
            shown=np.array(self._shown, dtype=np.int32),
            shown_end=np.array(self._shown_end, dtype=np.int64),
        )

    def _folded(self, ids: np.ndarray) -> np.ndarray:
        patch = ids == self._image_token
        return ids[~patch | (np.cumsum(patch) % self._patches == 1 % self._patches)]

    def _group(self, prefix: np.ndarray, pictures: Sequence[str]) -> int:
        """Equal for equal prefixes on equal pictures; a sample without a prefix has a group of its own."""
        new = len(self._groups) + self._alone
        if not len(prefix):
            self._alone += 1
            return new
        shown = int(np.count_nonzero(prefix == self._image_token)) // self._patches
        key = hashlib.blake2b(f"{len(prefix)} ".encode(), digest_size=16)
        key.update(self._folded(prefix).tobytes() + "\0".join(pictures[:shown]).encode())
        return self._groups.setdefault(key.digest(), new)

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pyarrow.array(column, field.type)
                for column, field in zip(zip(*self._rows, strict=True), _SCHEMA, strict=True)
            ]
            self._writer.write_batch(pyarrow.record_batch(columns, schema=_SCHEMA))
            self._rows = []


class Samples:
    """What a :class:`SampleWriter` wrote, R rows. Takes next to no memory; threads may share it.

    Attributes:
        lengths, supervised, prefixes, files: int32 [R]; ``groups``: int64 [R].
        shown, shown_end: the pictures of row r have the numbers ``shown[shown_end[r]:shown_end[r + 1]]``.
    """

    def __init__(self, folder: Path, image_token: int, patches: int) -> None:
        self._image_token, self._patches = image_token, patches
        table = _mapped(folder / _SAMPLES)
        self._columns = {name: table.column(name).chunks for name in table.column_names}
        self._names = _mapped(folder / _NAMES).column("name")
        with np.load(folder / _NUMBERS) as numbers:
            self.lengths, self.supervised = numbers["lengths"], numbers["supervised"]
            self.prefixes, self.files = numbers["prefixes"], numbers["files"]
            self.groups = numbers["groups"]
            self.shown, self.shown_end = numbers["shown"], numbers["shown_end"]

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> Encoded:
        ids = self._numbers("ids", row)
        ids = np.repeat(ids, np.where(ids == self._image_token, self._patches, 1))
        labels = np.full(len(ids), IGNORE_INDEX, dtype=np.int32)
        for first, end in self._numbers("trained", row).reshape(-1, 2):
            labels[first:end] = ids[first:end]
        return Encoded(ids.tolist(), labels.tolist(), self._cell("pictures", row).as_py())

    def place(self, row: int) -> str:
        """The file and line that a sample is from."""
        return str(self._cell("place", row).as_py())

    def names(self) -> list[str]:
        """All pictures, each once, in the order of their numbers."""
        return list(self._names.to_pylist())

    def rows_with(self, names: Collection[str]) -> np.ndarray:
        """Whether a row shows one of these pictures, bool [R]."""
        wanted = compute.is_in(self._names, pyarrow.array(names, pyarrow.string())).to_numpy()
        hits = np.r_[0, np.cumsum(wanted[self.shown])]
        return hits[self.shown_end[1:]] > hits[self.shown_end[:-1]]

    def names_in(self, rows: np.ndarray) -> list[str]:
        """Pictures of these rows, each once."""
        chosen = np.zeros(len(self), dtype=bool)
        chosen[rows] = True
        numbers = np.unique(self.shown[np.repeat(chosen, np.diff(self.shown_end))])
        return list(self._names.take(pyarrow.array(numbers)).to_pylist())

    def _cell(self, column: str, row: int) -> pyarrow.Scalar:
        return self._columns[column][row // _ROWS][row % _ROWS]

    def _numbers(self, column: str, row: int) -> np.ndarray:
        return self._cell(column, row).values.to_numpy()


def _mapped(path: Path) -> pyarrow.Table:
    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
