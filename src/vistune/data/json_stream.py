"""JSON files of any size, one record at a time, each with the line where it begins.

The whole file is never in memory: a record is decoded by the standard library, handed on and forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, TextIO

from vistune.data.text import refuse_other_encodings
from vistune.errors import VistuneError

_CHUNK = 1 << 20  # characters read at a time
_NEAR_END = 32  # an error this close to the end of what was read may just want more text
_LONGER = 3  # a number may go on after so many characters that are none yet: ``1`` and ``1e-5``
_SPACE = re.compile(r"[ \t\r\n]*")


class BrokenJsonError(VistuneError):
    """A file whose text cannot be followed beyond ``line``; ``what`` is wrong there."""

    def __init__(self, path: Path, line: int, where: str, what: str) -> None:
        super().__init__(f"{path}: {where}{what}.")
        self.line, self.what = line, what


@dataclass(frozen=True)
class Located:
    """A decoded value.

    Attributes:
        number: its place in its list, from 0.
        line: of the file, from 1, where it begins.
        list: the name of its list; empty where the file is itself a list.
    """

    value: Any
    number: int
    line: int
    list: str = ""


def stream_list(path: Path) -> Iterator[Located]:
    """The items of a file that is one JSON list.

    Raises:
        VistuneError: the file cannot be read.
        BrokenJsonError: it is no JSON list, or breaks off; names line and column.
    """
    with _Reader(path) as reader:
        reader.expect("[", "a JSON list of records")
        yield from reader.items("")
        reader.end()


def stream_lists(
    path: Path, wanted: Collection[str], what: str = "a JSON object of lists"
) -> Iterator[Located]:
    """The items of the named lists in a file that is one JSON object, in the file's order.

    Args:
        what: the kind of file, for messages: ``COCO's format``.

    Raises:
        VistuneError: as :func:`stream_list`, or a wanted list is missing or there twice.
    """
    missing = set(wanted)
    with _Reader(path) as reader:
        reader.expect("{", what)
        for key in reader.names():
            if key in wanted and reader.peek() == "[":
                if key not in missing:
                    reader.fail(f"a second list `{key}`")
                missing.discard(key)
                reader.expect("[", "a list")
                yield from reader.items(key)
            else:
                reader.value()
        reader.end()
    if missing:
        first = next(name for name in wanted if name in missing)
        raise VistuneError(f"{path}: expected {what}; the list `{first}` is missing.")


class _Reader:
    """A window that moves over a file's text."""

    def __init__(self, path: Path) -> None:
        self._path, self._decoder = path, json.JSONDecoder()
        self._text, self._at, self._line, self._column = "", 0, 1, 1
        self._ended = False

    def __enter__(self) -> _Reader:
        try:
            with open(self._path, "rb") as file:
                refuse_other_encodings(self._path, file.read(4))
            self._file: TextIO = open(self._path, encoding="utf-8-sig")
        except OSError as error:
            raise VistuneError(f"{self._path}: cannot be read ({error.strerror}). Check the path.") from error
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def names(self) -> Iterator[str]:
        """Names in an object whose brace was read; each one's value must be read before the next."""
        first = True
        while self._another("}", first):
            if self.peek() != '"':
                self.fail("expected a name in quotes")
            first, key = False, self.value()
            self.expect(":", "`:` after a name")
            yield key

    def items(self, name: str) -> Iterator[Located]:
        """Values of a list whose bracket was read."""
        number = 0
        while self._another("]", first=number == 0):
            self.peek()
            line = self._line
            yield Located(self.value(), number, line, name)
            number += 1

    def expect(self, sign: str, what: str) -> None:
        if self.peek() != sign:
            self.fail(f"expected {what}")
        self._move(self._at + 1)

    def end(self) -> None:
        if self.peek():
            self.fail("expected the end of the file")

    def peek(self) -> str:
        """The next sign that is no space; empty at the file's end."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._move(match.end())
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def value(self) -> Any:
        """Decode the next value; read on where it goes beyond the window."""
        self.peek()
        chunk = _CHUNK
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                ahead = error.pos - self._at
                cut = error.pos >= len(self._text) - _NEAR_END or error.msg.startswith("Unterminated")
                if not (cut and self._read(chunk)):
                    self._move(self._at + ahead)
                    self.fail(f"not valid JSON ({error.msg})")
            except RecursionError:
                self.fail("lists or objects nested too deeply")
            except ValueError as error:  # a number of thousands of digits
                self.fail(f"not valid JSON ({error})")
            else:
                known = len(self._text) - (_LONGER if isinstance(value, int | float) else 0)
                if end < known or not self._read(chunk):
                    self._move(end)
                    return value
            chunk *= 2

    def _another(self, closing: str, first: bool) -> bool:
        """Step over the comma to the next item, or over the closing sign."""
        sign = self.peek()
        if sign == closing:
            self._move(self._at + 1)
            return False
        if first:
            return True
        if sign != ",":
            self.fail(f"expected `,` or `{closing}`")
        self._move(self._at + 1)
        if self.peek() == closing:
            self.fail("a comma with nothing after it")
        return True

    def _read(self, size: int = 0) -> bool:
        """Append to the window, and forget what lies behind."""
        if self._ended:
            return False
        try:
            more = self._file.read(size or _CHUNK)
        except UnicodeDecodeError as error:
            what = f"not UTF-8 text, after line {self._line}"
            raise BrokenJsonError(self._path, self._line, "", what) from error
        self._ended = not more
        if more:
            self._text, self._at = self._text[self._at :] + more, 0
        return bool(more)

    def _move(self, to: int) -> None:
        newlines = self._text.count("\n", self._at, to)
        if newlines:
            self._line += newlines
            self._column = to - self._text.rfind("\n", self._at, to)
        else:
            self._column += to - self._at
        self._at = to

    def fail(self, what: str) -> NoReturn:
        """Raise BrokenJsonError about what comes next."""
        found = repr(self._text[self._at : self._at + 20]) if self._text[self._at :] else "the file's end"
        where = f"line {self._line}, column {self._column}: "
        raise BrokenJsonError(self._path, self._line, where, f"{what}, found {found}")
