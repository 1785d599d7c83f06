"""Streaming JSON: the same values as the standard library, wherever the window cuts; exact lines."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vistune.data import json_stream
from vistune.data.json_stream import BrokenJsonError, stream_list, stream_lists
from vistune.errors import VistuneError

NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def file_of(folder: Path, text: str) -> Path:
    path = folder / "data.json"
    path.write_text(text, encoding="utf-8", newline="")
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    values=st.lists(VALUES, max_size=5),
    chunk=st.integers(1, 40),
    indent=st.none() | st.just(2),
    escaped=st.booleans(),
)
def test_any_list_reads_as_json_loads_reads_it_wherever_it_is_cut(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    values: list[Any],
    chunk: int,
    indent: int | None,
    escaped: bool,
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = file_of(tmp_path, json.dumps(values, indent=indent, ensure_ascii=escaped))
    assert [item.value for item in stream_list(path)] == json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("chunk", range(1, 12))
@pytest.mark.parametrize("number", ["1.5", "-12", "1e5", "1E-7", "2.5e+10", "0", "123456789012345678901"])
def test_a_number_is_never_cut_in_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = file_of(tmp_path, f"[{number}, {number} ]")
    assert [item.value for item in stream_list(path)] == [json.loads(number)] * 2


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_item_has_the_line_where_it_begins(tmp_path: Path, newline: str) -> None:
    text = newline.join(["[", "", ' {"a":', "  1},", ' "b", "c"', ",", "[]", "]", ""])
    found = [(item.value, item.number, item.line) for item in stream_list(file_of(tmp_path, text))]
    assert found == [({"a": 1}, 0, 3), ("b", 1, 5), ("c", 2, 5), ([], 3, 7)]


def test_a_byte_order_mark_is_no_content(tmp_path: Path) -> None:
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert [item.value for item in stream_list(path)] == [1]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"a": 1}', "line 1, column 1: expected a JSON list"),
        ("", "line 1, column 1: expected a JSON list"),
        ("[1,\n2", "line 2, column 2: expected `,` or `]`, found the file's end"),
        ("[1,\n2,]", "line 2, column 3: a comma with nothing after it"),
        ("[1 2]", "line 1, column 4: expected `,`"),
        ('[\n{"a": 1,\n "b" 2}]', "line 3, column 6: not valid JSON (Expecting ':' delimiter)"),
        ('["a\n"]', "line 1, column 4: not valid JSON (Invalid control character"),
        ('["abc', "line 1, column 2: not valid JSON (Unterminated string"),
        ("[1]\n[2]", "line 2, column 1: expected the end of the file"),
        ("[" * 100_000, "nested too deeply"),
        ("[" + "1" * 5000 + "]", "line 1, column 2: not valid JSON (Exceeds the limit"),
    ],
)
def test_a_broken_file_is_told_with_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    path = file_of(tmp_path, text)
    with pytest.raises(BrokenJsonError) as caught:
        list(stream_list(path))
    assert str(caught.value).startswith(f"{path}: line ") and place in str(caught.value)


def test_items_before_the_break_are_handed_on(tmp_path: Path) -> None:
    stream = stream_list(file_of(tmp_path, '[1, {"a": 2},\n oops]'))
    assert [next(stream).value, next(stream).value] == [1, {"a": 2}]
    with pytest.raises(BrokenJsonError) as caught:
        next(stream)
    assert caught.value.line == 2


def test_other_encodings_and_missing_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "latin.json"
    path.write_bytes('["é"]'.encode("latin-1"))
    with pytest.raises(VistuneError, match="not UTF-8"):
        list(stream_list(path))
    with pytest.raises(VistuneError, match="cannot be read"):
        list(stream_list(tmp_path / "none.json"))
    with pytest.raises(VistuneError, match="cannot be read"):
        list(stream_list(tmp_path))


COCO = {"info": {"version": 1.5}, "images": [{"id": 1}, {"id": 2}], "n": -1e-3, "annotations": [{"id": 7}]}


@pytest.mark.parametrize("chunk", [1, 3, 7, 1 << 20])
def test_named_lists_come_in_the_order_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", chunk)
    path = file_of(tmp_path, json.dumps(COCO))
    found = [
        (item.list, item.number, item.value["id"]) for item in stream_lists(path, ("annotations", "images"))
    ]
    assert found == [("images", 0, 1), ("images", 1, 2), ("annotations", 0, 7)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": []}', "the list `annotations` is missing"),
        ('{"images": [], "annotations": {}}', "the list `annotations` is missing"),
        ('{"images": [1], "annotations": [], "images": [2]}', "a second list `images`"),
        ('{[1]: 2, "images": []}', "expected a name in quotes"),
        ('{"images" []}', "expected `:`"),
        ("[]", "expected COCO's format"),
    ],
)
def test_an_object_without_its_lists_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(VistuneError, match=message):
        list(stream_lists(file_of(tmp_path, text), ("images", "annotations"), "COCO's format"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    record = {"id": "x", "text": "word " * 200}
    path = file_of(tmp_path, json.dumps([record] * 20_000))
    size = path.stat().st_size
    tracemalloc.start()
    assert sum(1 for _ in stream_list(path)) == 20_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 20e6 and peak < size / 2
