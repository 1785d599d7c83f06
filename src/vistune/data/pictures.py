"""Pictures by name, from where they lie: a folder, a zip file, or tar shards, none of them unpacked."""

from __future__ import annotations

import io
import itertools
import posixpath
import re
from collections.abc import Mapping
from glob import glob
from pathlib import Path
from typing import Any

from PIL import Image

from vistune.data.archives import Archives, Member
from vistune.data.images import Flaw, UnusableImageError, decode, look, outside
from vistune.errors import VistuneError

SEPARATOR = "!/"  # between a source's label and a name in it, as in Java's URLs of archives
_HEAD = 1 << 16  # bytes; nearly every picture's header is within them
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class Pictures:
    """The pictures of one place. Any number of threads may read.

    Args:
        root: a folder; ``x.zip`` or ``x.tar``; or a pattern of such files: ``shards/{00000..00041}.tar``,
            ``shards/*.tar``. In an archive, a picture's name is its full path there.
        cache: a folder for what is remembered of archives from one start to the next.

    Raises:
        VistuneError: there is nothing of that kind, or an archive is damaged.
    """

    def __init__(self, root: Path | str, cache: Path | None = None) -> None:
        self.root = Path(root)
        self._archives = None if self.root.is_dir() else Archives(_expand(str(root)), cache)
        self._inside = self.root.resolve()

    def exists(self, name: str) -> bool:
        try:
            return self._member(name) is not None if self._archives else self._path(name).is_file()
        except UnusableImageError:
            return False

    def read(self, name: str) -> bytes:
        """The file's bytes.

        Raises:
            UnusableImageError: missing, outside of the root, or unreadable.
        """
        if self._archives:
            return self._content(self._archives, name)
        try:
            return self._path(name).read_bytes()
        except FileNotFoundError as error:
            raise self._unusable(name, "picture is missing") from error
        except OSError as error:
            raise self._unusable(name, "broken picture", str(error)) from error

    def open(self, name: str) -> Image.Image:
        """The picture, upright, in RGB.

        Raises:
            UnusableImageError: as :meth:`read`, or it cannot be decoded.
        """
        if self._archives:
            return decode(io.BytesIO(self._content(self._archives, name)), self._told(name))
        return decode(self._path(name), self._told(name))

    def look(self, name: str) -> Flaw | None:
        """What can be said against a picture from its header, without decoding it."""
        try:
            if not self._archives:
                return look(self._path(name), name)
            head = self._content(self._archives, name, _HEAD)
            flaw = look(io.BytesIO(head), name)
            return look(io.BytesIO(self.read(name)), name) if flaw and len(head) == _HEAD else flaw
        except UnusableImageError as error:
            return error.flaw

    def identity(self) -> list[Any]:
        """What changes where other pictures lie here; of a folder, only its path."""
        return self._archives.identity() if self._archives else [str(self._inside)]

    def _told(self, name: str) -> str:
        return f"{self.root}{SEPARATOR}{name}" if self._archives else str(self.root / name)

    def _unusable(self, name: str, reason: str, detail: str = "") -> UnusableImageError:
        return UnusableImageError(self._told(name), Flaw(reason, detail))

    def _path(self, name: str) -> Path:
        """A name's path in the folder. Links there are its owner's, and are followed."""
        if flaw := outside(name):
            raise UnusableImageError(self._told(name), flaw)
        return self.root / name

    def _member(self, name: str) -> Member | None:
        assert self._archives is not None
        if flaw := outside(name):
            raise UnusableImageError(self._told(name), flaw)
        if archives := self._archives.twice.get(posixpath.normpath(name)):
            raise self._unusable(name, "picture in two archives", archives)
        return self._archives.find(name)

    def _content(self, archives: Archives, name: str, most: int | None = None) -> bytes:
        member = self._member(name)
        if member is None:
            raise self._unusable(name, "picture is missing")
        try:
            return archives.read(member) if most is None else archives.read(member, most)
        except OSError as error:
            raise self._unusable(name, "broken picture", str(error)) from error


class PictureSources:
    """Pictures of several places, each under one name.

    A name of the default place stands as it is. A name of another place is ``LABEL!/NAME``, where the label
    is how the recipe writes the place (``stages.x.data.FILE.images``): ``gqa.zip!/images/12.jpg``.

    Args:
        places: by their labels; the default's is empty.
    """

    def __init__(self, places: Mapping[str, Pictures]) -> None:
        self._places = dict(places)

    @staticmethod
    def name(label: str, file: str) -> str:
        """The name, among all sources, of ``file`` in the place with this label (empty: the default)."""
        return f"{label}{SEPARATOR}{file}" if label else file

    def exists(self, name: str) -> bool:
        place, file = self._resolve(name)
        return place.exists(file)

    def read(self, name: str) -> bytes:
        """As :meth:`Pictures.read`."""
        place, file = self._resolve(name)
        return place.read(file)

    def open(self, name: str) -> Image.Image:
        """As :meth:`Pictures.open`."""
        place, file = self._resolve(name)
        return place.open(file)

    def look(self, name: str) -> Flaw | None:
        """As :meth:`Pictures.look`."""
        place, file = self._resolve(name)
        return place.look(file)

    def identity(self) -> dict[str, list[Any]]:
        """What changes where other pictures lie in one of the places."""
        return {label: place.identity() for label, place in self._places.items()}

    def _resolve(self, name: str) -> tuple[Pictures, str]:
        label, separator, file = name.rpartition(SEPARATOR)
        return (self._places[label], file) if separator else (self._places[""], name)


def check_place(root: Path | str) -> None:
    """Raise VistuneError if there are no pictures to read at ``root``; see :class:`Pictures`."""
    if not Path(root).is_dir():
        _expand(str(root))


def _expand(pattern: str) -> list[Path]:
    """The archives that a root names, in order."""
    paths = [Path(path) for path in _ranges(pattern)]
    if any(sign in pattern for sign in "*?"):
        paths = [Path(path) for path in sorted({path for each in _ranges(pattern) for path in glob(each)})]
    if missing := next((path for path in paths if not path.is_file()), None):
        raise VistuneError(f"{missing}: no such folder of images, nor a zip or tar file.")
    if not paths:
        raise VistuneError(f"{pattern}: no file matches. Check the pattern.")
    if other := next((path for path in paths if path.suffix.lower() not in (".zip", ".tar")), None):
        raise VistuneError(f"{other}: pictures are read from a folder, .zip or uncompressed .tar files.")
    return paths


def _ranges(pattern: str) -> list[str]:
    """``a{08..10}`` -> ``a08``, ``a09``, ``a10``."""
    pieces = _RANGE.split(pattern)
    choices = [
        [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
        for first, last in zip(pieces[1::3], pieces[2::3], strict=True)
    ]
    return [
        pieces[0] + "".join(number + text for number, text in zip(numbers, pieces[3::3], strict=True))
        for numbers in itertools.product(*choices)
    ]
