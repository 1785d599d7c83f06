"""Text files that somebody else wrote, line by line: what is no UTF-8 is told with its place."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vistune.errors import Problem, VistuneError

_SHOWN = 80  # characters of what was found
_FOREIGN_MARKS = {  # the longer marks first: one begins with another
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"\x1f\x8b": "gzip",
}


@dataclass(frozen=True)
class Line:
    """A line without its end; ``place``: file and line, for messages."""

    number: int
    place: str
    text: str


def excerpt(value: object) -> str:
    """The beginning of what was found, fit to be shown."""
    shown = repr(value[:_SHOWN] if isinstance(value, (str, bytes)) else value)
    return shown if len(shown) <= 2 * _SHOWN else shown[: 2 * _SHOWN] + "..."


def text_lines(path: Path) -> Iterator[Line | Problem]:
    """The lines of a file; one that is no UTF-8 is a problem.

    Raises:
        VistuneError: the file cannot be read, or says of itself that it is in another encoding.
    """
    try:
        with open(path, "rb") as file:
            refuse_other_encodings(path, file.peek(4)[:4])
            for number, line in enumerate(file, start=1):
                yield _decode(line, number, f"{path}: line {number}")
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error


def refuse_other_encodings(path: Path, start: bytes) -> None:
    """Raise VistuneError where a file's first four bytes are the mark of another encoding."""
    for mark, name in _FOREIGN_MARKS.items():
        if start.startswith(mark):
            remedy = "Unpack it" if name == "gzip" else f"Convert it: iconv -f {name} -t UTF-8"
            raise VistuneError(f"{path}: line 1: expected UTF-8 text, found {name}. {remedy}.")


def _decode(line: bytes, number: int, place: str) -> Line | Problem:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return Problem(place, "not UTF-8 text", f"byte 0x{byte:02x} at {error.start + 1}: {excerpt(line)}")
    if "\0" in text:
        return Problem(place, "not UTF-8 text", f"a NUL byte: {excerpt(line)}")
    return Line(number, place, text.rstrip("\r\n"))
