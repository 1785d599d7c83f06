"""Text files, line by line."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vistune.errors import VistuneError


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines of a UTF-8 text file with their numbers, from 1, without their ends.

    Raises:
        VistuneError: the file cannot be read; names the line that is no UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise VistuneError(
                        f"{path}: line {number}: not UTF-8 text (byte {error.start + 1} of the line)."
                    ) from error
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
