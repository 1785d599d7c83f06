"""Zip files and tar shards, read in place: an index of where each member begins, made once.

A member is read with one positioned read from a file opened for it, so any number of threads may read.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vistune.errors import VistuneError
from vistune.progress import track

_LOCAL_HEADER = struct.Struct("<26xHH")  # of a zip member; the lengths of its name and of its extra field
_PLAIN, _STORED, _DEFLATED = range(3)  # in a tar; in a zip, as it is or compressed
_MAX_BYTES = 1 << 30  # of one member; a small one may claim to unfold to anything
_VERSION = 1  # of the index files


class Member(NamedTuple):
    """Where a file lies: in which archive, from which byte on (zip: its header), how long, how packed."""

    archive: int
    start: int
    size: int
    packing: int


class Archives:
    """Files of many archives, under their full names inside of them.

    Args:
        cache: a folder that keeps indices; without it, they are made at each start.

    Raises:
        VistuneError: an archive is damaged, or packed so that it cannot be read in place.
    """

    def __init__(self, paths: Sequence[Path], cache: Path | None = None) -> None:
        self.paths = list(paths)
        self._members: dict[str, Member] = {}
        self.twice: dict[str, str] = {}  # names that several archives hold, and in which
        for number, path in enumerate(track(paths, "indexing archives", len(paths))):
            for name, start, size, packing in _index(path, cache):
                if name in self._members and self._members[name].archive != number:
                    self.twice[name] = f"{paths[self._members[name].archive].name} and {path.name}"
                self._members[name] = Member(number, start, size, packing)

    def find(self, name: str) -> Member | None:
        return self._members.get(posixpath.normpath(name))

    def read(self, member: Member, most: int = _MAX_BYTES) -> bytes:
        """The member's first bytes, up to ``most``.

        Raises:
            OSError: the archive cannot be read, or the member is damaged or too large.
        """
        with open(self.paths[member.archive], "rb", buffering=0) as file:
            start = member.start
            if member.packing != _PLAIN:
                lengths = _LOCAL_HEADER.unpack(os.pread(file.fileno(), _LOCAL_HEADER.size, start))
                start += _LOCAL_HEADER.size + sum(lengths)
            if member.size > _MAX_BYTES:
                raise OSError(f"{member.size:,} bytes")
            size = member.size if member.packing == _DEFLATED else min(member.size, most)
            content = os.pread(file.fileno(), size, start)
        if len(content) < size:
            raise OSError("the archive ends within it")
        return _unfold(content, most) if member.packing == _DEFLATED else content

    def identity(self) -> list[Any]:
        """What changes when an archive does."""
        return [_identity(path) for path in self.paths]


def _unfold(content: bytes, most: int) -> bytes:
    unfolder = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unfolded = unfolder.decompress(content, most)
    except zlib.error as error:
        raise OSError(str(error)) from error
    if len(unfolded) >= _MAX_BYTES:
        raise OSError(f"unfolds to more than {_MAX_BYTES:,} bytes")
    return unfolded


def _identity(path: Path) -> list[Any]:
    status = path.stat()
    return [str(path.resolve()), status.st_size, status.st_mtime_ns]


def _index(path: Path, cache: Path | None) -> Iterator[tuple[str, int, int, int]]:
    """Names, starts, sizes and packings of an archive's files."""
    if cache is None:
        yield from _scan(path)
        return
    key = hashlib.sha256(json.dumps([_VERSION, _identity(path)]).encode()).hexdigest()[:16]
    kept = cache / f"{path.name}-{key}.index"
    if not kept.exists():
        _write(kept, list(_scan(path)))
    yield from _read(kept)


def _scan(path: Path) -> Iterator[tuple[str, int, int, int]]:
    try:
        scan = _scan_zip if path.suffix.lower() == ".zip" else _scan_tar
        for name, start, size, packing in scan(path):
            yield posixpath.normpath(name), start, size, packing
    except (tarfile.TarError, zipfile.BadZipFile) as error:
        raise VistuneError(f"{path}: not a sound archive ({error}). Fetch or make it again.") from error
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror or error}). Check the path.") from error


def _scan_zip(path: Path) -> Iterator[tuple[str, int, int, int]]:
    packings = {zipfile.ZIP_STORED: _STORED, zipfile.ZIP_DEFLATED: _DEFLATED}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            if info.flag_bits & 1 or info.compress_type not in packings:
                what = "encrypted" if info.flag_bits & 1 else "neither stored nor deflated"
                raise VistuneError(f"{path}: {info.filename} is {what}. Pack it again: zip -0 -r.")
            yield info.filename, info.header_offset, info.compress_size, packings[info.compress_type]


def _scan_tar(path: Path) -> Iterator[tuple[str, int, int, int]]:
    if not tarfile.is_tarfile(path):
        raise tarfile.ReadError("no tar header")
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isreg() and not info.issparse():
                    yield info.name, info.offset_data, info.size, _PLAIN
                archive.members = []  # type: ignore[attr-defined]  # or it would keep all of them
    except tarfile.ReadError as error:
        raise VistuneError(
            f"{path}: not a plain, whole tar file ({error}). Files are read in place, so it must not be "
            "compressed: gunzip it first."
        ) from error


def _write(path: Path, rows: list[tuple[str, int, int, int]]) -> None:
    import pyarrow
    from pyarrow import feather

    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    columns = list(zip(*rows, strict=True)) or [()] * 4
    types = (pyarrow.string(), pyarrow.int64(), pyarrow.int64(), pyarrow.int8())
    arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, types, strict=True)]
    feather.write_feather(pyarrow.table(arrays, names=("name", "start", "size", "packing")), part)
    part.replace(path)


def _read(path: Path) -> Iterator[tuple[str, int, int, int]]:
    from pyarrow import feather

    for batch in feather.read_table(path).to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)
