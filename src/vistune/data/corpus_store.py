"""Encoded samples on disk: an Arrow file, mapped into memory, and a few numbers of each sample.

A picture's patches are one token on disk. Labels are kept as ranges of trained positions.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Collection, Sequence
from itertools import accumulate, compress
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import compute

from vistune.conversation import IGNORE_INDEX
from vistune.template import Encoded, Folded

_SAMPLES, _NUMBERS, _NAMES = "samples.arrow", "numbers.npz", "pictures.arrow"
_ROWS = 1024  # of a batch; all but the last have this many, so that a row is found by division
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

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file = pyarrow.OSFile(str(folder / _SAMPLES), "wb")
        self._writer = pyarrow.ipc.new_stream(self._file, _SCHEMA)
        self._ids, self._trained, self._pictures = _Numbers(), _Numbers(), _Texts()
        self._places: list[str] = []
        self._names: dict[str, int] = {}
        self._groups: dict[bytes, int] = {}
        self._alone = 0
        self._numbers = {name: array("i") for name in ("lengths", "supervised", "prefixes", "files")}
        self._group_of = array("q")
        self._shown, self._shown_end = array("i"), array("q", [0])

    def add(self, sample: Folded, file: int, place: str) -> None:
        """Append a sample of the ``file``-th file that stands at ``place``."""
        ids = array("i", sample.ids)
        shared = _shared_pictures(sample)
        prefix = sample.places[shared - 1] + 1 if shared else 0
        self._ids.add(ids)
        self._trained.add(_unfolded(sample))
        self._pictures.add(sample.pictures)
        self._places.append(place)
        counts = (len(sample), sample.supervised, sample.unfolded(prefix, shared), file)
        for name, number in zip(self._numbers, counts, strict=True):
            self._numbers[name].append(number)
        self._group_of.append(self._group(ids[:prefix], sample.pictures[:shared]))
        self._shown.extend([self._names.setdefault(name, len(self._names)) for name in sample.pictures])
        self._shown_end.append(len(self._shown))
        if len(self._places) == _ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()
        self._file.close()
        names = pyarrow.Table.from_arrays([strings(list(self._names))], ["name"])
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

    def _group(self, prefix: array[int], pictures: Sequence[str]) -> int:
        """Equal for equal prefixes on equal pictures; a sample without a prefix has a group of its own."""
        new = len(self._groups) + self._alone
        if not prefix:
            self._alone += 1
            return new
        key = hashlib.blake2b(f"{len(prefix)} ".encode(), digest_size=16)
        key.update(prefix.tobytes() + "\0".join(pictures).encode())
        return self._groups.setdefault(key.digest(), new)

    def _flush(self) -> None:
        if self._places:
            columns = [self._ids.take(), self._trained.take(), self._pictures.take(), strings(self._places)]
            self._writer.write_batch(pyarrow.RecordBatch.from_arrays(columns, schema=_SCHEMA))
            self._places = []


class _Numbers:
    """Rows of numbers, one after another: an Arrow list column without a Python object a number."""

    def __init__(self) -> None:
        self._values, self._ends = array("i"), array("i", [0])

    def add(self, row: array[int]) -> None:
        self._values.extend(row)
        self._ends.append(len(self._values))

    def take(self) -> pyarrow.Array:
        """Return the rows as a list column, and begin again."""
        column = _lists(self._ends, numbers(self._values))
        self._values, self._ends = array("i"), array("i", [0])
        return column


class _Texts:
    """The same for rows of texts."""

    def __init__(self) -> None:
        self._values: list[str] = []
        self._ends = array("i", [0])

    def add(self, row: Sequence[str]) -> None:
        self._values.extend(row)
        self._ends.append(len(self._values))

    def take(self) -> pyarrow.Array:
        """Return the rows as a list column, and begin again."""
        column = _lists(self._ends, strings(self._values))
        self._values, self._ends = [], array("i", [0])
        return column


# From buffers: ``pyarrow.array`` imports pandas where it is installed, which takes as long as encoding
# thousands of samples.


def numbers(values: array[int]) -> pyarrow.Array:
    """An Arrow column of 32-bit numbers."""
    return pyarrow.Array.from_buffers(pyarrow.int32(), len(values), [None, pyarrow.py_buffer(values)])


def strings(texts: Sequence[str]) -> pyarrow.Array:
    """An Arrow column of texts."""
    encoded = [text.encode() for text in texts]
    ends = array("i", accumulate(map(len, encoded), initial=0))
    buffers = pyarrow.py_buffer(ends), pyarrow.py_buffer(b"".join(encoded))
    return pyarrow.StringArray.from_buffers(len(encoded), *buffers)


def _lists(ends: array[int], values: pyarrow.Array) -> pyarrow.Array:
    kind = pyarrow.list_(values.type)
    return pyarrow.Array.from_buffers(kind, len(ends) - 1, [None, pyarrow.py_buffer(ends)], children=[values])


def _shared_pictures(sample: Folded) -> int:
    """How many of the sample's pictures stand before anything is trained on; all may be shared.

    :func:`vistune.data.pack.shared_length` says it of unfolded ids.
    """
    return bisect_left(sample.places, sample.spans[0][0]) if sample.spans else len(sample.places)


def _unfolded(sample: Folded) -> array[int]:
    """First position and last + 1 of each trained range, after unfolding."""
    trained = array("i")
    for first, end in sample.spans:
        before = bisect_left(sample.places, first)
        trained.extend((sample.unfolded(first, before), sample.unfolded(end, before)))
    return trained


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
        known = compute.is_in(self._names, strings(list(names)))
        wanted = np.array(known.to_pylist(), dtype=bool)
        hits = np.r_[0, np.cumsum(wanted[self.shown])]
        return hits[self.shown_end[1:]] > hits[self.shown_end[:-1]]

    def names_in(self, rows: np.ndarray) -> list[str]:
        """Pictures of these rows, each once."""
        chosen = np.zeros(len(self), dtype=bool)
        chosen[rows] = True
        shown = np.zeros(len(self._names), dtype=bool)
        shown[self.shown[np.repeat(chosen, np.diff(self.shown_end))]] = True
        return list(compress(self.names(), shown))

    def count_in(self, rows: np.ndarray, parts: np.ndarray) -> int:
        """Count the different pictures of each part, summed; ``parts`` [N] says which one a row is of."""
        counts = np.diff(self.shown_end)[rows]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        numbers = self.shown[np.repeat(self.shown_end[rows], counts) + within]
        return len(np.unique(np.repeat(parts, counts).astype(np.int64) * len(self._names) + numbers))

    def _cell(self, column: str, row: int) -> pyarrow.Scalar:
        return self._columns[column][row // _ROWS][row % _ROWS]

    def _numbers(self, column: str, row: int) -> np.ndarray:
        return self._cell(column, row).values.to_numpy()


def _mapped(path: Path) -> pyarrow.Table:
    return pyarrow.ipc.open_stream(pyarrow.memory_map(str(path))).read_all()
