"""Files of records in LLaVA's format, in and out: JSON, JSON lines or Parquet, told by the file's ending."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.data.json_stream import stream_list
from vistune.data.text import excerpt, text_lines
from vistune.errors import Problem, VistuneError

FORMATS = ("json", "jsonl", "parquet")
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class Record:
    """One record and where it stands.

    ``FILE: line 12, record 3`` in JSON, where many may stand in one line; ``FILE: line 12`` in JSON lines;
    ``FILE: row 12`` in Parquet.
    """

    value: Any
    place: str


def read_records(path: Path) -> Iterator[Record | Problem]:
    """Read records one by one; a malformed line of JSON lines is a problem, and reading goes on.

    Raises:
        VistuneError: the file cannot be read, has another ending, or is malformed in a way that hides
            where its next record begins; names file and line.
    """
    kind = file_format(path)
    if kind == "json":
        for item in stream_list(path):
            yield Record(item.value, f"{path}: line {item.line}, record {item.number + 1}")
    elif kind == "jsonl":
        yield from _read_lines(path)
    else:
        yield from _read_parquet(path)


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """A full disk, or a folder that cannot be written, becomes a VistuneError that names ``place``."""
    try:
        yield
    except OSError as error:
        raise VistuneError(
            f"{place}: cannot be written ({error.strerror}). Make room, and run the same command again."
        ) from error


def write_records(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Write records one by one; returns how many."""
    kind = file_format(path)
    if kind == "parquet":
        return _write_parquet(path, records)
    count = 0
    with open(path, "w", encoding="utf-8") as file:
        for count, record in enumerate(records, start=1):
            text = json.dumps(record, ensure_ascii=False)
            if kind == "json":
                file.write(("[\n" if count == 1 else ",\n") + text)
            else:
                file.write(text + "\n")
        if kind == "json":
            file.write("\n]\n" if count else "[]\n")
    return count


def file_format(path: Path) -> str:
    """``json``, ``jsonl`` or ``parquet``.

    Raises:
        VistuneError: the file has another ending.
    """
    kind = path.suffix.removeprefix(".").lower()
    if kind not in FORMATS:
        raise VistuneError(f"{path}: expected a file that ends in {', '.join('.' + f for f in FORMATS)}.")
    return kind


def _read_lines(path: Path) -> Iterator[Record | Problem]:
    for line in text_lines(path):
        if isinstance(line, Problem):
            yield line
            continue
        if not line.text.strip():
            continue
        try:
            yield Record(json.loads(line.text), line.place)
        except json.JSONDecodeError as error:
            detail = f"{error.msg}, column {error.colno}: {excerpt(line.text)}"
            yield Problem(line.place, "not valid JSON", detail)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, or a deep nesting
            yield Problem(line.place, "not valid JSON", f"{error}: {excerpt(line.text)}")


def _read_parquet(path: Path) -> Iterator[Record | Problem]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    known = {key: value for key, value in row.items() if value is not None}
                    yield Record(known, f"{path}: row {number}")
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error}). Check the path.") from error
    except pyarrow.ArrowInvalid as error:
        raise VistuneError(f"{path}: not a Parquet file ({error}).") from error


def _write_parquet(path: Path, records: Iterable[dict[str, Any]]) -> int:
    import pyarrow
    from pyarrow import parquet

    turn = pyarrow.struct([("from", pyarrow.string()), ("value", pyarrow.string())])
    schema = pyarrow.schema(
        [
            ("id", pyarrow.string()),
            ("image", pyarrow.list_(pyarrow.string())),
            ("conversations", pyarrow.list_(turn)),
        ]
    )
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for rows in _batches(records):
            images = [row.get("image") for row in rows]
            listed = [[image] if isinstance(image, str) else image for image in images]
            columns = {
                "id": [row["id"] for row in rows],
                "image": listed,
                "conversations": [row["conversations"] for row in rows],
            }
            writer.write_table(pyarrow.table(columns, schema))
            count += len(rows)
    return count


def _batches(records: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for record in records:
        batch.append(record)
        if len(batch) == _ROWS_AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
