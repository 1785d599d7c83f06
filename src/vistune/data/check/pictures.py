"""Pictures of a data set, each looked at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from vistune.data.images import Flaw, UnusableImageError, open_image, outside
from vistune.processes import spread
from vistune.progress import track

_FEW = {False: 4000, True: 200}  # decode in full? -> so many are done before other processes have started
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL = 1024  # bytes: the end marker stands there, even where a camera has padded the file
_SMALL = 32 * 1024  # bytes; below, decoding costs little, and a preview's end marker could be in the tail
_EASY_PIXELS, _EASY_RATIO = 50_000_000, 100  # beyond, decoding in full decides
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)  # EXIF


@dataclass(frozen=True)
class Look:
    """What a look at a picture told: its upright (width, height), or why it cannot be used."""

    size: tuple[int, int] | None
    flaw: Flaw | None = None


def look_at_all(files: Sequence[str], folder: Path, decode: bool, workers: int) -> Iterator[Look]:
    """A look at each file, in the order of ``files``; ``workers``: processes, few files need none."""
    work = partial(look_at, folder, decode=decode)
    found = spread(work, files, 1 if len(files) <= _FEW[decode] else workers)
    yield from track(found, "looking at pictures", total=len(files))


def look_at(folder: Path, file: str, decode: bool = False) -> Look:
    """A look at one file.

    Args:
        decode: decode it in full. Otherwise a JPEG file above 32 KiB with a sound header and an end marker is
            taken to be whole: cut files are found, damaged bytes in the middle are not.
    """
    if flaw := outside(file):
        return Look(None, flaw)
    path = folder / file
    if not decode and (size := _size_of_whole(path)):
        return Look(size)
    try:
        return Look(open_image(path).size)
    except UnusableImageError as error:
        return Look(None, error.flaw)


def _size_of_whole(path: Path) -> tuple[int, int] | None:
    """The size of a JPEG file with a sound header and an end marker, which its pixels cannot look like."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _SMALL or file.read(len(_JPEG_START)) != _JPEG_START:
                return None
            file.seek(size - _TAIL)
            if _JPEG_END not in file.read():
                return None
            file.seek(0)
            with Image.open(file) as picture:
                width, height = picture.size
                sideways = picture.getexif().get(_ORIENTATION) in _SIDEWAYS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    if width * height > _EASY_PIXELS or max(width, height) > _EASY_RATIO * min(width, height):
        return None
    return (height, width) if sideways else (width, height)
