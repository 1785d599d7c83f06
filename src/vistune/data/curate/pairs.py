"""Image-text pairs, read one by one from TSV, CSV, JSON lines or Parquet, told by the file's ending.

A file without a header holds ``caption<TAB>image`` (or ``caption,image``), the form of CC3M. With a header,
and in JSON lines and Parquet, the fields are ``caption`` and one of ``image``, ``path`` and ``url``; others
are passed over. A row that cannot be used is a problem with its place, and reading goes on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.curate import tables
from vistune.data.curate.tables import Row
from vistune.data.text import excerpt, text_lines
from vistune.errors import Problem, VistuneError

LONGEST = 2_000  # characters; CC3M's longest captions have a few hundred


@dataclass(frozen=True)
class Pair:
    """A caption and where its image is: a URL or a path, as it was written."""

    id: str
    caption: str
    image: str
    place: str


def read_pairs(path: Path, name: str | None = None, longest: int = LONGEST) -> Iterator[Pair | Problem]:
    """Read the pairs of a file.

    Args:
        name: begins the pairs' ids, ``NAME-ROW``; the file's stem where it is None.
        longest: captions of more characters are problems.

    Raises:
        VistuneError: the file cannot be read at all; names what was found and the remedy.
    """
    for row in _reader(path)(path):
        yield row if isinstance(row, Problem) else _check(row, name or path.stem, longest)


def check_files(files: Sequence[Path]) -> list[str]:
    """A name for each file, no two alike: its stem, with a number before it where stems repeat.

    Raises:
        VistuneError: no file, a missing one, one given twice, or one of an unknown ending.
    """
    if not files:
        raise VistuneError("No file of captions. Give at least one .tsv, .csv, .jsonl or .parquet file.")
    seen: set[Path] = set()
    for path in files:
        _reader(path)
        if not path.is_file():
            raise VistuneError(f"{path}: is not a file. Check the path.")
        if path.resolve() in seen:
            raise VistuneError(f"{path}: is given twice. Give each file once.")
        seen.add(path.resolve())
    stems = [path.stem for path in files]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{number}-{stem}" for number, stem in enumerate(stems, start=1)]


def _check(row: Row, name: str, longest: int) -> Pair | Problem:
    for field, value in (("caption", row.caption), ("image", row.image)):
        if value is None or value == "":
            return Problem(row.place, f"{field} is missing or empty")
        if not isinstance(value, str):
            return Problem(row.place, f"{field} is not text", f"found {excerpt(value)}")
        if not value.strip():
            return Problem(row.place, f"{field} is missing or empty")
        if not _encodable(value):
            return Problem(row.place, f"{field} is not valid Unicode", f"found {excerpt(value)}")
    caption = row.caption.strip()
    if len(caption) > longest:
        return Problem(row.place, "caption is too long", f"{len(caption)} characters: {excerpt(caption)}")
    if IMAGE_PLACEHOLDER in caption:
        return Problem(row.place, f"caption contains `{IMAGE_PLACEHOLDER}`", excerpt(caption))
    return Pair(f"{name}-{row.number}", caption, row.image.strip(), row.place)


def _encodable(text: str) -> bool:
    """False for half of a surrogate pair, which JSON can spell and no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _reader(path: Path) -> Callable[[Path], Iterator[Row | Problem]]:
    readers = {
        ".tsv": tables.read_tsv,
        ".csv": tables.read_csv,
        ".jsonl": _read_json_lines,
        ".parquet": _read_parquet,
    }
    try:
        return readers[path.suffix.lower()]
    except KeyError:
        raise VistuneError(f"{path}: expected a file that ends in {', '.join(readers)}.") from None


def _read_json_lines(path: Path) -> Iterator[Row | Problem]:
    for line in text_lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        if not line.text.strip():
            continue
        try:
            value = json.loads(line.text)
        except (json.JSONDecodeError, RecursionError) as error:
            what = f"{error.msg}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "deep"
            yield Problem(line.place, "not valid JSON", f"{what}: {excerpt(line.text)}")
            continue
        if not isinstance(value, dict):
            yield Problem(line.place, "not a JSON object", f"found {excerpt(line.text)}")
            continue
        image = next((value[field] for field in tables.IMAGE_FIELDS if value.get(field) is not None), None)
        yield Row(line.number, line.place, value.get(tables.CAPTION_FIELD), image)


def _read_parquet(path: Path) -> Iterator[Row | Problem]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            fields = tables.choose_fields(names)
            if fields is None:
                raise VistuneError(tables.no_fields(str(path), names))
            number = 0
            for batch in file.iter_batches(columns=list(fields)):
                columns = [_values(batch.column(field)) for field in fields]
                for caption, image in zip(*columns, strict=True):
                    number += 1
                    yield Row(number, f"{path}: row {number}", caption, image)
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error}). Check the path.") from error
    except pyarrow.ArrowInvalid as error:
        raise VistuneError(f"{path}: not a Parquet file ({error}).") from error


def _values(column: Any) -> list[Any]:
    """A column's values; bytes stand where a text is no UTF-8."""
    import pyarrow

    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pyarrow.binary()).to_pylist()
        values = [value if value is None else _decoded(value) for value in values]
    return values


def _decoded(value: bytes) -> str | bytes:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value
