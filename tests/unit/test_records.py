"""Files of records: what is written reads back the same; malformed lines are told with their place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vistune.data.records import FORMATS, Record, file_format, read_records, write_records
from vistune.errors import Problem, VistuneError
from vistune.lines import read_lines

RECORDS: list[dict[str, Any]] = [
    {"id": "1", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\nWas ist das? 🐕"}]},
    {"id": "2", "image": ["a.jpg", "b.jpg"], "conversations": [{"from": "gpt", "value": "“Zwei”\n\tHunde."}]},
    {"id": "3", "conversations": [{"from": "human", "value": "No picture."}]},
]


def values(path: Path) -> list[Any]:
    return [record.value for record in read_records(path) if isinstance(record, Record)]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_written_reads_back_the_same(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    assert write_records(path, iter(RECORDS)) == 3
    expected = json.loads(json.dumps(RECORDS))
    if kind == "parquet":  # one column, one type: a picture is a list of one
        expected[0]["image"] = ["a.jpg"]
    assert values(path) == expected


@pytest.mark.parametrize("kind", FORMATS)
def test_no_records_are_a_valid_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"data.{kind}"
    assert write_records(path, []) == 0
    assert values(path) == []


def test_a_written_json_file_is_json(tmp_path: Path) -> None:
    write_records(tmp_path / "data.json", RECORDS)
    assert json.loads((tmp_path / "data.json").read_text(encoding="utf-8")) == RECORDS


def test_places_name_file_and_line(tmp_path: Path) -> None:
    for kind, expected in (
        ("json", ["line 2, record 1", "line 3, record 2"]),
        ("jsonl", ["line 1", "line 2"]),
    ):
        path = tmp_path / f"data.{kind}"
        write_records(path, RECORDS[:2])
        assert [record.place for record in read_records(path)] == [f"{path}: {line}" for line in expected]
    path = tmp_path / "data.parquet"
    write_records(path, RECORDS[:2])
    assert [record.place for record in read_records(path)] == [f"{path}: row 1", f"{path}: row 2"]


def test_a_malformed_line_is_a_problem_and_reading_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    deep, digits = "[" * 100_000, "1" * 5000
    path.write_text(f'{{"a": 1}}\n\n{{"a": \n{deep}\n{digits}\n"last"\n', encoding="utf-8")
    first, broken, nested, long, last = read_records(path)
    assert first == Record({"a": 1}, f"{path}: line 1") and last == Record("last", f"{path}: line 6")
    assert all(isinstance(found, Problem) for found in (broken, nested, long))
    assert isinstance(broken, Problem) and broken.place == f"{path}: line 3"
    assert broken.reason == "not valid JSON" and "Expecting value, column 7" in broken.detail


def test_a_line_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n{"a": "\xe9"}\n')
    lines = read_lines(path)
    assert next(lines) == (1, '{"a": 1}')
    with pytest.raises(VistuneError, match=r"line 2: not UTF-8 text \(byte 8 of the line\)"):
        next(lines)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.JSON", "json"), ("b.jsonl", "jsonl"), ("c.parquet", "parquet")]
)
def test_the_ending_tells_the_format(name: str, kind: str) -> None:
    assert file_format(Path(name)) == kind


@pytest.mark.parametrize("name", ["a.csv", "a", "a.json.gz"])
def test_other_endings_are_refused(name: str) -> None:
    with pytest.raises(VistuneError, match=r"\.json, \.jsonl, \.parquet"):
        list(read_records(Path(name)))


@pytest.mark.parametrize("kind", FORMATS)
def test_a_missing_file_is_told(tmp_path: Path, kind: str) -> None:
    with pytest.raises(VistuneError, match="cannot be read"):
        list(read_records(tmp_path / f"none.{kind}"))


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(VistuneError, match="not a Parquet file"):
        list(read_records(path))
