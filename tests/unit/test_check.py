"""`vistune check`: every fault is found once, with its place; what is sound is not complained about."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.small_tokenizers import speaking
from vistune.conversation import Conversation, Picture, from_json, gpt, human
from vistune.data.check import CheckReport, CheckSettings, Finding, check, check_and_tell
from vistune.data.check.length import LengthCheck, _Ids
from vistune.data.check.record import faults_of
from vistune.data.records import write_records
from vistune.errors import VistuneError
from vistune.template import TEMPLATES, Renderer
from vistune.template.begin import leave_to_template

Turns = list[dict[str, Any]]
BAD = "\ud800"  # half of a character


def turns(*values: str) -> Turns:
    return [{"from": ("human", "gpt")[n % 2], "value": value} for n, value in enumerate(values)]


def record(name: str, image: Any = "a.jpg", *values: str) -> dict[str, Any]:
    said = values or ("<image>\nWhat is it?", f"Thing {name}.")
    return {"id": name, "image": image, "conversations": turns(*said)}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.jpg", "b.jpg", "deep/c.png"):
        Image.effect_noise((256, 256), 90).save(folder / name)
    return folder


@pytest.fixture
def run(tmp_path: Path, images: Path) -> Callable[..., tuple[CheckReport, list[Finding]]]:
    def run(
        content: list[Any] | str, settings: CheckSettings | None = None, name: str = "data.json"
    ) -> tuple[CheckReport, list[Finding]]:
        path = tmp_path / name
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text(
                "[\n" + ",\n".join(json.dumps(item) for item in content) + "\n]", encoding="utf-8"
            )
        found: list[Finding] = []
        return check(path, images, settings or CheckSettings(workers=1), found.append), found

    return run


def told(findings: list[Finding]) -> list[tuple[str, str, str]]:
    """Severity, the place's end, reason."""
    return [
        (finding.severity, finding.problem.place.rpartition(": ")[2], finding.problem.reason)
        for finding in findings
    ]


def test_sound_data_are_sound(run: Any) -> None:
    content = [
        record("1"),
        record("2", "b.jpg", "What is it?\n<image>", "A.", "And?", "B."),
        record("3", ["a.jpg", "deep/c.png"], "<image> or <image>?", "Both."),
        {"id": "4", "conversations": turns("No picture?", "None.")},
        {"id": "5", "image": None, "conversations": turns("None?", "None.")},
        {"id": 6, "image": ["deep/c.png"], "extra": 1, "conversations": turns("<image>", "A caption.")},
    ]
    report, found = run(content)
    assert not found and report.ok
    assert (report.records, report.usable, report.pictures) == (6, 6, 3)


FAULTY: list[tuple[Any, set[str]]] = [
    ("text", {"record is not an object"}),
    ({}, {"`conversations` is missing or empty"}),
    ({"conversations": []}, {"`conversations` is missing or empty"}),
    (record("1", 7), {"`image` is not a file name"}),
    (record("1", ["a.jpg", None]), {"`image` is not a file name"}),
    (record("1", "a.jpg", "<image>\nWhat?", " \n"), {"the answer is empty"}),
    (record("1", "a.jpg", "<image>\nWhat?"), {"the last turn has no answer"}),
    (record("1", "a.jpg", "What?", "A."), {"fewer `<image>` than images"}),
    (record("1", None, "<image>\nWhat?", "A."), {"more `<image>` than images"}),
    (record("1", "a.jpg", "<image> <image>", "A."), {"more `<image>` than images"}),
    (record("1", "a.jpg", "<image>", "See <image>."), {"`<image>` in an answer"}),
    ({"conversations": turns("a", "b")[::-1]}, {"turns out of order", "the last turn has no answer"}),
    ({"conversations": [*turns("a", "b"), turns("a", "b")[1]]}, {"turns out of order"}),
    ({"conversations": [{"from": "user", "value": "a"}, turns("a", "b")[1]]}, {"unknown speaker"}),
    ({"conversations": [{"from": "human"}, "b"]}, {"turn is not an object with `from` and `value`"}),
    ({"conversations": [{"from": "human", "value": 1}, turns("a", "b")[1]]}, {"`value` is not text"}),
    (
        {"image": "a.jpg", "conversations": turns("What?", "")},
        {"the answer is empty", "fewer `<image>` than images"},
    ),
]


@pytest.mark.parametrize(("value", "reasons"), FAULTY)
def test_each_fault_has_its_phrase_and_all_of_a_record_are_told(
    run: Any, value: Any, reasons: set[str]
) -> None:
    report, found = run([record("good"), value])
    assert {finding.problem.reason for finding in found} == reasons == set(report.errors)
    assert {finding.severity for finding in found} == {"error"}
    assert {finding.problem.place.rpartition(": ")[2] for finding in found} == {"line 3, record 2"}
    assert (report.records, report.usable, report.ok) == (2, 1, False)


JSON_LIKE = st.recursive(
    st.none() | st.integers() | st.sampled_from(["", "<image>", "human", "gpt", "a.jpg", "text"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.fixed_dictionaries(
            {}, optional={"from": inner, "value": inner, "image": inner, "conversations": inner}
        )
    ),
    max_leaves=12,
)
TURN = st.fixed_dictionaries(
    {
        "from": st.sampled_from(["human", "gpt", "system"]),
        "value": st.sampled_from(["", "a", "<image>", "b <image>", 3]),
    }
)
RECORDS = JSON_LIKE | st.fixed_dictionaries(
    {"image": JSON_LIKE | st.lists(st.just("a.jpg"), max_size=2), "conversations": st.lists(TURN, max_size=4)}
)


@given(RECORDS)
def test_a_record_has_faults_exactly_where_it_cannot_be_read(value: Any) -> None:
    try:
        from_json(value)
    except ValueError:
        assert faults_of(value)
    else:
        assert not faults_of(value)


def test_pictures_that_cannot_be_used(run: Any, images: Path) -> None:
    whole = (images / "a.jpg").read_bytes()
    assert len(whole) > 32 * 1024, "large enough for the quick look"
    (images / "cut.jpg").write_bytes(whole[:-2000])
    (images / "text.jpg").write_text("no picture")
    (images / "empty.jpg").write_bytes(b"")
    (images / "cut.png").write_bytes((images / "deep/c.png").read_bytes()[:-500])
    (images / "padded.jpg").write_bytes(whole + b"\0" * 100)
    names = ["cut.jpg", "text.jpg", "empty.jpg", "cut.png", "padded.jpg", "none.jpg", "deep"]
    report, found = run([record(name, name) for name in names] + [record("again", "none.jpg")])
    by_file = {
        finding.problem.detail.split(",")[0].split(":")[0]: finding.problem.reason for finding in found
    }
    assert by_file == {
        "cut.jpg": "broken picture",
        "text.jpg": "not a picture",
        "empty.jpg": "not a picture",
        "cut.png": "broken picture",
        "none.jpg": "picture is missing",
        "deep": "broken picture",
    }
    assert (report.pictures, report.records, report.usable) == (7, 8, 1)
    missing = next(finding.problem for finding in found if finding.problem.reason == "picture is missing")
    assert missing.place.endswith("line 7, record 6") and missing.detail == "none.jpg, in 2 records"


def test_decoding_in_full_agrees_with_the_quick_look(run: Any, images: Path) -> None:
    (images / "cut.jpg").write_bytes((images / "a.jpg").read_bytes()[:-3000])
    content = [record(name, name) for name in ("a.jpg", "cut.jpg", "deep/c.png")]
    assert told(run(content)[1]) == told(run(content, CheckSettings(workers=1, decode=True))[1]) != []


@pytest.mark.parametrize(
    "name",
    [
        "../secret.jpg",
        "/etc/passwd",
        "deep/../../x.jpg",
        "deep/../a.jpg",
        "..\\x.jpg",
        "..",
        "",
        " ",
        "a\0.jpg",
    ],
)
def test_names_that_leave_the_folder_are_errors_and_are_not_opened(run: Any, name: str) -> None:
    report, found = run([record("1", name)])
    assert len(found) == 1 and found[0].severity == "error" and report.pictures == 0
    assert found[0].problem.reason in (
        "picture outside the folder of images",
        "`image` is not a file name",
    )


def test_without_a_folder_pictures_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record("1", "none.jpg")]))
    report = check(path, None, CheckSettings(), lambda finding: None)
    assert report.ok and report.pictures is None


def test_duplicates_are_warnings_that_name_the_first(run: Any) -> None:
    content = [record("1"), record("2"), record("1", "b.jpg"), record("1") | {"id": "3"}]
    report, found = run(content)
    assert report.ok and report.usable == 4
    assert told(found) == [
        ("warning", "line 4, record 3", "same `id` as another record"),
        ("warning", "line 5, record 4", "same pictures and conversation as another record"),
    ]
    assert found[0].problem.detail == found[1].problem.detail == "first in line 2, record 1"


def test_duplicates_in_one_line_are_found(run: Any) -> None:
    report, _ = run(json.dumps([record("1"), record("1")]))
    assert sum(report.warnings.values()) == 2


def test_odd_records_are_warnings(run: Any) -> None:
    nameless = {"conversations": turns(" ", "An answer.")}
    report, found = run([nameless])
    assert report.ok and {finding.problem.reason for finding in found} == {
        "record has no `id`",
        "empty question",
    }


def test_half_a_character_is_an_error(run: Any) -> None:
    _, found = run([record("1", None, "What?", f"A {BAD}.")])
    assert told(found) == [("error", "line 2, record 1", "text is not valid Unicode")]


def test_a_file_that_breaks_off_is_an_error_after_what_was_read(run: Any) -> None:
    text = json.dumps([record("1", "none.jpg"), record("2")])
    report, found = run(text[:-20])
    assert told(found) == [
        ("error", "line 1", "not valid JSON; what follows was not read"),
        ("error", "line 1, record 1", "picture is missing"),
    ]
    assert (report.records, report.usable) == (1, 0)


def test_a_malformed_line_of_json_lines_is_one_error(run: Any) -> None:
    report, found = run(f"{json.dumps(record('1'))}\n{{oops\n{json.dumps(record('2'))}\n", name="data.jsonl")
    assert told(found) == [("error", "line 2", "not valid JSON")]
    assert (report.records, report.usable) == (3, 2)


def test_parquet_is_read_too(tmp_path: Path, images: Path) -> None:
    pytest.importorskip("pyarrow")
    path = tmp_path / "data.parquet"
    write_records(path, [record("1"), record("2", "none.jpg")])
    found: list[Finding] = []
    report = check(path, images, CheckSettings(workers=1), found.append)
    assert told(found) == [("error", "row 2", "picture is missing")] and report.records == 2


def test_no_records_are_an_error(run: Any) -> None:
    assert run("[]")[0].errors == {"no records": 1}


def test_what_cannot_be_read_stops(tmp_path: Path, images: Path) -> None:
    for data, folder in ((tmp_path / "none.json", images), (tmp_path / "a.csv", images), (images, images)):
        with pytest.raises(VistuneError):
            check(data, folder, CheckSettings(), lambda finding: None)
    with pytest.raises(VistuneError, match="no such folder"):
        check(tmp_path / "none.json", tmp_path / "nowhere", CheckSettings(), lambda finding: None)


# Length


def test_an_estimate_is_a_warning_that_says_so(run: Any) -> None:
    long = "word " * 2000
    report, found = run([record("1", "a.jpg", "<image>\nTell.", long)])
    assert report.ok and told(found) == [("warning", "line 2, record 1", "probably longer than max_length")]
    assert "estimated" in found[0].problem.detail


def test_with_a_tokenizer_the_length_is_exact_and_an_error(run: Any) -> None:
    settings = CheckSettings(tokenizer="starter", template="short", workers=1)
    report, found = run([record("1"), record("2", "a.jpg", "<image>\nTell.", "the dog " * 2000)], settings)
    assert told(found) == [("error", "line 3, record 2", "longer than max_length")] and report.usable == 1


@given(
    st.lists(st.text(min_size=1, max_size=40).map(lambda text: text + "x"), min_size=1, max_size=3),
    st.sampled_from(sorted(TEMPLATES)),
    st.integers(0, 200),
)
def test_no_conversation_escapes_the_exact_limit(
    tokenizer: Any, texts: list[str], template: str, most: int
) -> None:
    """What is found without tokenising must be what the renderer finds."""
    said = tuple(turn for text in texts for turn in (human(Picture("a.jpg"), f"\n{text}?"), gpt(text)))
    conversation = Conversation("1", said)
    expected = len(Renderer(TEMPLATES[template], tokenizer, 0, 7).encode(conversation).ids)
    checker = LengthCheck(None, template, 7, most)
    checker._renderer = Renderer(TEMPLATES[template], _Ids(tokenizer.backend_tokenizer), 0, 7)
    flaw = checker.flaw_of(conversation)
    assert (flaw is not None) == (expected > most)
    assert flaw is None or flaw.detail.startswith(f"{expected} >")


def test_an_export_is_as_long_as_what_it_was_made_of(tmp_path: Path) -> None:
    conversation = Conversation("1", (human("Wo?"), gpt("Da.")))
    checks = []
    for name in ("trained", "exported"):
        tokenizer = speaking("llama-legacy", None)
        if name == "exported":
            assert leave_to_template(tokenizer) == "<s>"  # now written by the chat template alone
        tokenizer.save_pretrained(tmp_path / name)
        checks.append(LengthCheck(str(tmp_path / name), "vicuna_v1", 7, 1))
    trained, exported = (check.flaw_of(conversation) for check in checks)
    assert trained is not None and trained == exported
    settings = tmp_path / "exported" / "tokenizer_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "vistune_begin": ""}))
    shorter = LengthCheck(str(tmp_path / "exported"), "vicuna_v1", 7, 1).flaw_of(conversation)
    assert shorter is not None and shorter != exported
    settings.write_text("[]")
    with pytest.raises(VistuneError, match="expected an object, found list"):
        LengthCheck(str(tmp_path / "exported"), "vicuna_v1", 7, 1)


def test_unknown_tokenizers_and_templates_are_told(tmp_path: Path) -> None:
    with pytest.raises(VistuneError, match="Unknown template"):
        LengthCheck(None, "none", 576, 2048)
    with pytest.raises(VistuneError, match="cannot be loaded"):
        LengthCheck(str(tmp_path), "short", 576, 2048)


# What is told


def test_the_first_of_each_reason_are_printed_and_all_are_listed(
    tmp_path: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, listing = tmp_path / "data.json", tmp_path / "found.json"
    content = [record(str(n), "a.jpg", "<image>\nWhat?", "") for n in range(5)] + [record("x"), record("x")]
    path.write_text(json.dumps(content))
    report = check_and_tell(path, images, CheckSettings(workers=1), listing, most=2)
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{path}: line 1, record 1: error: the answer is empty (conversations[1])"
    assert sum(": error: the answer is empty (" in line for line in out) == 2
    assert any("3 more" in line and str(listing) in line for line in out)
    assert any(line.split() == "5 x error: the answer is empty".split() for line in out)
    assert "7 records, 2 without an error; 1 pictures looked at" in out[-1]
    written = json.loads(listing.read_text())
    assert len(written["findings"]) == 7 and written["report"]["errors"] == report.errors
    assert set(written["findings"][0]) == {"severity", "place", "reason", "detail"}


def test_a_list_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps([record("1")]))
    with pytest.raises(VistuneError, match="is there already"):
        check_and_tell(path, None, CheckSettings(), path, most=2)
    assert json.loads(path.read_text()) == [record("1")]


def test_a_check_that_cannot_end_leaves_no_half_list(tmp_path: Path) -> None:
    path, listing = tmp_path / "data.json", tmp_path / "found.json"
    path.write_text(json.dumps([record("1")]))
    with pytest.raises(VistuneError, match="no such folder of images"):
        check_and_tell(path, tmp_path / "nowhere", CheckSettings(), listing, most=2)
    assert not listing.exists()


def test_the_sample_worlds_data_are_sound(tiny_world: Path, tmp_path: Path, world_annotations: Any) -> None:
    from vistune.data.generation.generate import generate
    from vistune.data.teachers.scripted import OfflineTeacher

    generate(world_annotations, OfflineTeacher(world_annotations.categories), tmp_path / "data")
    for name in ("conversation", "detail", "reasoning", "alignment"):
        found: list[Finding] = []
        settings = CheckSettings("starter", "short", 64, 2048, decode=True, workers=1)
        report = check(tmp_path / "data" / f"{name}.json", tiny_world / "images", settings, found.append)
        assert report.ok and not found and report.records, found[:3]
