"""Rows of text files: lines, tab-separated and comma-separated tables, with and without a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.data.text import excerpt, text_lines
from vistune.errors import Problem, VistuneError

CAPTION_FIELD = "caption"
IMAGE_FIELDS = ("image", "path", "url")  # the first that is there is taken


@dataclass(frozen=True)
class Row:
    """What a row holds, unchecked; ``number`` of its line (in Parquet: its row), from 1."""

    number: int
    place: str
    caption: Any
    image: Any


def read_tsv(path: Path) -> Iterator[Row | Problem]:
    """Rows between tabs; quotes mean nothing."""

    def cells() -> Iterator[_Cells | Problem]:
        for line in text_lines(path):
            if isinstance(line, Problem):
                yield line
            elif line.text.strip():
                yield _Cells(line.number, line.place, line.text.split("\t"))

    return _rows(cells())


def read_csv(path: Path) -> Iterator[Row | Problem]:
    """Rows between commas; a cell in quotes may hold commas and line ends."""
    return _rows(_csv_cells(path))


@dataclass(frozen=True)
class _Cells:
    number: int
    place: str
    values: list[str]


def _csv_cells(path: Path) -> Iterator[_Cells | Problem]:
    unseen: list[Problem] = []  # lines that the CSV reader was not given
    given: list[int] = []  # numbers of the lines that it took for one row

    def lines() -> Iterator[str]:
        for line in text_lines(path):
            if isinstance(line, Problem):
                unseen.append(line)
            else:
                given.append(line.number)
                yield line.text + "\n"

    reader = csv.reader(lines(), strict=True)
    while True:
        try:
            values: list[str] | None = next(reader, None)
            fault = ""
        except csv.Error as error:
            values, fault = [], str(error)
        yield from unseen
        if values is None:
            return
        if fault:
            span = f"line {given[0]}" if len(given) == 1 else f"lines {given[0]} to {given[-1]}"
            yield Problem(f"{path}: {span}", "not valid CSV", fault)
        elif values:
            yield _Cells(given[0], f"{path}: line {given[0]}", values)
        unseen.clear()
        given.clear()


def _rows(table: Iterator[_Cells | Problem]) -> Iterator[Row | Problem]:
    """Cells -> rows; the first row may be a header."""
    caption, image, width = 0, 1, 2
    for position, cells in enumerate(table):
        if isinstance(cells, Problem):
            yield cells
        elif position == 0 and (header := _header(cells)):
            caption, image, width = header
        elif len(cells.values) != width:
            detail = f"expected {width}, found {len(cells.values)}: {excerpt(cells.values)}"
            yield Problem(cells.place, "wrong number of columns", detail)
        else:
            yield Row(cells.number, cells.place, cells.values[caption], cells.values[image])


def _header(cells: _Cells) -> tuple[int, int, int] | None:
    """Which column is the caption, which the image, and how many there are; None for a row of data.

    Raises:
        VistuneError: a header without one of the two.
    """
    names = [value.strip().lower() for value in cells.values]
    named = {CAPTION_FIELD, *IMAGE_FIELDS}.intersection(names)
    if not named or any(set("./ ") & set(name) for name in names):
        return None
    fields = choose_fields(names)
    if fields is None:
        raise VistuneError(no_fields(cells.place, names))
    return names.index(fields[0]), names.index(fields[1]), len(names)


def choose_fields(names: Sequence[str]) -> tuple[str, str] | None:
    """The fields of caption and image among ``names``, or None where one of the two is missing."""
    image = next((field for field in IMAGE_FIELDS if field in names), None)
    return (CAPTION_FIELD, image) if image and CAPTION_FIELD in names else None


def no_fields(place: str, names: Sequence[str]) -> str:
    """What to tell where :func:`choose_fields` found none."""
    wanted = f"`{CAPTION_FIELD}` and one of {', '.join(f'`{field}`' for field in IMAGE_FIELDS)}"
    return f"{place}: expected columns {wanted}, found {', '.join(names)}. Rename them."
