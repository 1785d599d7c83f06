"""Pictures of a data set, each looked at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from vistune.data.images import Flaw, find_flaw
from vistune.processes import spread
from vistune.progress import track

_FEW = {False: 4000, True: 200}  # decode in full? -> so many are done before other processes have started
_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_TAIL = 1024  # bytes: the end marker stands there, even where a camera has padded the file
_SMALL = 32 * 1024  # bytes; below, decoding costs little, and a preview's end marker could be in the tail
_EASY_PIXELS = 50_000_000


def outside(file: str) -> Flaw | None:
    """Whether a file's name leads out of the folder of images, or is none."""
    if not file.strip() or "\0" in file:
        return Flaw("`image` is not a file name", repr(file))
    if os.path.isabs(file) or os.path.normpath(file).split(os.sep)[0] == os.pardir:
        return Flaw("picture outside the folder of images", repr(file))
    return None


def flaws_of(
    files: Sequence[str], folder: Path, decode: bool, workers: int
) -> Iterator[tuple[str, Flaw | None]]:
    """Each file and why it cannot be used, in the order of ``files``.

    Args:
        decode: decode every picture in full. Otherwise a JPEG file above 32 KiB with a sound header and an
            end marker is taken to be whole: cut files are found, damaged bytes in the middle are not.
        workers: processes.
    """
    look = partial(_find_flaw, folder, decode)
    found = spread(look, files, 1 if len(files) <= _FEW[decode] else workers)
    yield from zip(files, track(found, "looking at pictures", total=len(files)), strict=True)


def _find_flaw(folder: Path, decode: bool, file: str) -> Flaw | None:
    path = folder / file
    return None if not decode and _looks_whole(path) else find_flaw(path)


def _looks_whole(path: Path) -> bool:
    """Whether this is a JPEG file with a sound header and an end marker; its pixels cannot look like one."""
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < _SMALL or file.read(len(_JPEG_START)) != _JPEG_START:
                return False
            file.seek(size - _TAIL)
            if _JPEG_END not in file.read():
                return False
            file.seek(0)
            with Image.open(file) as picture:
                return picture.width * picture.height <= _EASY_PIXELS
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
