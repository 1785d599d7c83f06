"""ScienceQA's scorer: the published figures, strict reading, splits, and files that are not in order."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHARED_DATA
from vistune.data.scienceqa.problems import read_problems, read_splits
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles, refuse_ignored
from vistune.evaluate.benches.letter import read_index, read_letter
from vistune.evaluate.benches.scienceqa import BENCHES
from vistune.evaluate.measure import measures
from vistune.evaluate.sheet import join, read_sheet

BENCH = BENCHES[0]
LLAVA = "90.36 95.95 88.00 89.49 88.00 90.66 90.93 90.90 90.92"
GPT3 = "75.44 70.87 78.09 74.68 67.43 79.93 78.23 69.68 75.17"
OFFICIAL: dict[str, Any] = {
    "question": "Which is a bird?",
    "choices": ["a crow", "a carp", "a cat"],
    "answer": 0,
    "hint": "",
    "image": None,
    "task": "closed choice",
    "grade": "grade2",
    "subject": "natural science",
    "topic": "biology",
    "category": "Animals",
    "skill": "Sort",
    "lecture": "Birds have feathers.",
    "solution": "A crow has feathers.",
    "split": "test",
}


@pytest.fixture(scope="module")
def published() -> Path:
    folder = SHARED_DATA / "scienceqa"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/scienceqa, which is not part of the repository")
    return folder


def scored(files, predictions):
    questions = BENCH.load(files)
    joined = join(questions.questions, read_sheet(predictions))
    return questions, joined, BENCH.score(questions.questions, joined.sheet, files)


def row_of(outcomes):
    return " ".join(f"{measure.value:.2f}" for measure in measures(outcomes, BENCH.names).values())


def write(path, content):
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "row"), [("llava_13b_v0", LLAVA), ("gpt3_cot", GPT3)])
def test_stored_indices_give_the_published_rows(published, name, row):
    files = BenchFiles(published / "test_problems.json", stored_indices=True)
    questions, joined, outcomes = scored(files, published / f"{name}_predictions.json")
    assert row_of(outcomes) == row
    assert questions.whole and len(outcomes) == 4241 and not joined.problems and not questions.problems
    assert (
        list(measures(outcomes, BENCH.names))
        == list(BENCH.names)
        == ("NAT SOC LAN TXT IMG NO G1-6 G7-12 Avg".split())
    )


def test_llavas_texts_read_strictly_lose_the_lucky_draw(published):
    files = BenchFiles(published / "test_problems.json")
    _, _, outcomes = scored(files, published / "llava_13b_v0_predictions.json")
    assert sum(bool(outcome.right) for outcome in outcomes) == 3855 and row_of(outcomes).endswith(" 90.90")
    unread = {outcome.id: outcome.note for outcome in outcomes if outcome.read is None}
    assert unread == {"3247": "answers D, of 2 choices"}
    stored = BenchFiles(published / "test_problems.json", stored_indices=True)
    _, _, drawn = scored(stored, published / "llava_13b_v0_predictions.json")
    noted = {outcome.id: (outcome.read, outcome.note) for outcome in drawn if outcome.note}
    assert noted == {"3247": ("B", "the text itself: answers D, of 2 choices")}


def test_gpt3s_texts_read_strictly(published):
    files = BenchFiles(published / "test_problems.json")
    _, _, outcomes = scored(files, published / "gpt3_cot_predictions.json")
    assert row_of(outcomes).endswith(" 72.18")
    notes = Counter(outcome.note.split("(")[0].strip() for outcome in outcomes if outcome.read is None)
    assert notes == {"empty answer": 243, "states an answer 2 times": 6}


def test_a_published_split_is_whole_and_its_questions_have_their_pictures_place(published):
    files = BenchFiles(published / "test_problems.json", splits=published / "pid_splits.json", split="test")
    questions = BENCH.load(files)
    assert questions.whole
    assert {q.id: q.image for q in questions.questions[:3]} == {
        "4": None, "5": "test/5/image.png", "11": "test/11/image.png",
    }  # fmt: skip
    mini = BENCH.load(
        BenchFiles(published / "test_problems.json", splits=published / "pid_splits.json", split="minitest")
    )
    assert len(mini.questions) == mini.official == 424
    assert {name: len(ids) for name, ids in read_splits(published / "pid_splits.json").items()} == {
        "train": 12726, "val": 4241, "test": 4241, "trainval": 16967,
        "minitrain": 1272, "minival": 424, "minitest": 424,
    }  # fmt: skip


def test_a_split_whose_problems_are_elsewhere_is_refused(published):
    with pytest.raises(VistuneError, match=r"no problem of split train.*not among the problems"):
        BENCH.load(
            BenchFiles(published / "test_problems.json", None, None, published / "pid_splits.json", "train")
        )


@pytest.mark.parametrize(
    ("text", "letter", "why"),
    [
        ("B", "B", ""),
        (" B\n", "B", ""),
        ("B. a carp", "B", ""),
        ("The answer is C.", "C", ""),
        ("A fish swims.\nThe answer is B. It has gills.", "B", ""),
        ("Assistant: LECTURE: Birds fly.\n The answer is A.", "A", ""),
        ("Assistant:\nC", "C", ""),
        ("ASSISTANT: B. a carp", "B", ""),
        ("", None, "empty answer"),
        (" \n", None, "empty answer"),
        ("Assistant: ", None, "empty answer"),
        ("b", None, "names no letter"),
        ("(B)", None, "names no letter"),
        ("B.", None, "names no letter"),
        ("B) a carp", None, "names no letter"),
        ("The answer is b.", None, "names no letter"),
        ("The answer is B", None, "names no letter"),
        ("The answer is Carp.", None, "names no letter"),
        ("Assistant: Assistant: B", None, "names no letter"),
        ("The answer is B. The answer is B.", None, "states an answer 2 times (B, B)"),
        ("The answer is A. No: The answer is B.", None, "states an answer 2 times (A, B)"),
        ("D", None, "answers D, of 3 choices"),
        ("D. a dog. The answer is A.", None, "answers D, of 3 choices"),
        ("The answer is Z.", None, "answers Z, of 3 choices"),
        ("Ｂ", None, "names no letter"),
        ("I saw \0 nothing\ud800", None, "names no letter"),
    ],
)
def test_strict_reading(text, letter, why):
    reading = read_letter(text, 3)
    assert (reading.letter, reading.why) == (letter, why)


@pytest.mark.parametrize(
    ("index", "letter", "why"),
    [
        (0, "A", ""),
        (2, "C", ""),
        (3, None, "the stored index is 3, of 3 choices"),
        (-1, None, "the stored index is -1, of 3 choices"),
        (None, None, "no stored index"),
        (True, None, "the stored index is True"),
        ("1", None, "the stored index is '1'"),
        (1.0, None, "the stored index is 1.0"),
    ],
)
def test_stored_indices_are_indices(index, letter, why):
    reading = read_index(index, 3)
    assert (reading.letter, reading.why) == (letter, why)


def test_columns_count_as_published(tmp_path):
    problems = {
        "1": {**OFFICIAL, "hint": "Feathers.", "image": "image.png", "grade": "grade7"},
        "2": {**OFFICIAL, "subject": "social science", "grade": "grade6", "hint": " "},
        "3": {**OFFICIAL, "subject": "language science", "image": "image.png", "grade": "grade12"},
    }
    questions = BENCH.load(BenchFiles(write(tmp_path / "p.json", problems))).questions
    assert [q.details["columns"] for q in questions] == [
        ("NAT", "TXT", "IMG", "G7-12", "Avg"),
        ("SOC", "NO", "G1-6", "Avg"),
        ("LAN", "IMG", "G7-12", "Avg"),
    ]


def test_what_a_model_reads(tmp_path):
    problems = {"7": {**OFFICIAL, "hint": "Look at the beak.", "image": "image.png"}, "8": OFFICIAL}
    with_picture, plain = BENCH.load(BenchFiles(write(tmp_path / "p.json", problems))).questions
    options = "Options:\n(A) a crow\n(B) a carp\n(C) a cat"
    assert with_picture.text == f"Question: Which is a bird?\nContext: Look at the beak.\n{options}"
    assert (with_picture.image, with_picture.details["picture_last"]) == ("test/7/image.png", True)
    assert plain.text == f"Question: Which is a bird?\nContext: N/A\n{options}" and plain.image is None
    assert plain.references == ("A",)


def test_the_reduced_form_is_asked_with_the_context_that_stands_in_its_question(tmp_path):
    reduced = {
        "choices": ["one", "two"], "answer": 1, "has_image": False, "has_text": True,
        "stem": "Context: Two hens.\nHow many?", "grade": "grade1", "subject": "natural science",
    }  # fmt: skip
    problems = {"1": reduced, "2": {**reduced, "stem": "How many?", "has_text": False, "has_image": True}}
    first, second = BENCH.load(BenchFiles(write(tmp_path / "p.json", problems))).questions
    assert first.text == "Context: Two hens.\nHow many?\nOptions:\n(A) one\n(B) two"
    assert second.text.startswith("Question: How many?\nContext: N/A\n") and second.image == "2/image.png"


def test_without_a_split_the_problems_own_test_split_is_meant(tmp_path):
    problems = {"1": {**OFFICIAL, "split": "train"}, "2": OFFICIAL, "3": {**OFFICIAL, "split": "val"}}
    path = write(tmp_path / "p.json", problems)
    assert [q.id for q in BENCH.load(BenchFiles(path)).questions] == ["2"]
    val = BENCH.load(BenchFiles(path, split="val"))
    assert [q.id for q in val.questions] == ["3"] and val.official == 4241 and not val.whole
    with pytest.raises(VistuneError, match="no problem is of split minitest; there are test, train, val"):
        BENCH.load(BenchFiles(path, split="minitest"))
    own = BENCH.load(BenchFiles(path, splits=write(tmp_path / "s.json", {"mine": [3, "1"]}), split="mine"))
    assert [(q.id, own.official) for q in own.questions] == [("3", None), ("1", None)]


def test_predictions_of_another_split_answer_nothing(tmp_path):
    problems = write(tmp_path / "p.json", {"1": {**OFFICIAL, "split": "train"}, "2": OFFICIAL})
    answers = write(tmp_path / "a.json", {"outputs": {"1": "A"}, "results": {"1": 0}})
    questions, joined, outcomes = scored(BenchFiles(problems), answers)
    assert not outcomes and [q.id for q in joined.missing] == ["2"] and not questions.whole


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answer": 3}, "`answer`: expected an index of its 3 choices, found 3"),
        ({"answer": -1}, "`answer`"),
        ({"answer": True}, "`answer`"),
        ({"answer": "0"}, "`answer`"),
        ({"choices": None}, "`choices`: expected a list of texts, found None"),
        ({"choices": ["a", 2]}, "`choices`"),
        ({"choices": ["a"], "answer": 0}, "`choices`: expected 2 to 26, found 1"),
        ({"choices": ["a"] * 27}, "`choices`: expected 2 to 26, found 27"),
        ({"question": " "}, "`question`: expected text"),
        ({"question": 7}, "`question`: expected text, found 7"),
        ({"question": "half \ud83d"}, "`question`: text is not valid Unicode"),
        ({"hint": ["x"]}, "`hint`: expected text"),
        ({"grade": "grade13"}, "`grade`: expected grade1 to grade12"),
        ({"grade": 7}, "`grade`"),
        ({"subject": "art"}, "`subject`: expected one of natural science"),
        ({"subject": ["natural science"]}, "`subject`: expected one of natural science"),
        ({"split": 3}, "`split`: expected text"),
        ({"split": None}, "`split`: missing, while other problems have one"),
        ({"image": 1}, "`image`: expected text"),
    ],
)
def test_a_malformed_problem_is_set_aside_with_its_place(tmp_path, change, told):
    path = write(tmp_path / "p.json", {"1": {**OFFICIAL, **change}, "2": OFFICIAL})
    found = read_problems(path)
    assert [problem.id for problem in found.problems] == ["2"]
    (problem,) = found.set_aside
    assert problem.place == f"{path}: problem 1" and told in problem.detail


def test_problems_that_are_no_objects_and_ids_that_occur_twice_are_set_aside(tmp_path):
    path = tmp_path / "p.json"
    row = json.dumps(OFFICIAL)
    path.write_text(f'{{"1": {row}, "2": 5, "1": {row}, "3": {row}, "4": null}}', encoding="utf-8")
    found = read_problems(path)
    assert [problem.id for problem in found.problems] == ["3"]
    assert [problem.detail for problem in found.set_aside] == [
        "its id occurs twice; neither is used",
        "expected an object, found 5",
        "expected an object, found None",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "not valid JSON"),
        (b"[1, 2]", "expected problems by their ids, found \\[1, 2\\]"),
        (b"{}", "expected problems by their ids"),
        (b'{"1": ', "not valid JSON"),
        (b"\xff\xfe{}", "found UTF-16"),
        (b'{"1": "\xe4"}', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"1": {"question": "x"}}', "holds no problem to use. The first: .*problem 1: `choices`"),
    ],
)
def test_a_file_that_holds_no_problems_is_refused(tmp_path, content, told):
    path = tmp_path / "p.json"
    path.write_bytes(content)
    with pytest.raises(VistuneError, match=told):
        read_problems(path)


def test_options_that_miss_or_contradict_are_refused(tmp_path):
    path = write(tmp_path / "p.json", {"2": OFFICIAL})
    splits = write(tmp_path / "s.json", {"test": ["2"], "bad": 3})
    for files, told in (
        (BenchFiles(), "--problems"),
        (BenchFiles(tmp_path / "none.json"), "cannot be read"),
        (BenchFiles(path, splits=splits), "--split"),
        (BenchFiles(path, splits=splits, split="test"), "split bad: expected a list of problem ids, found 3"),
    ):
        with pytest.raises(VistuneError, match=told):
            BENCH.load(files)
    write(splits, {"test": ["2"]})
    with pytest.raises(VistuneError, match=r"--split mini: there is no such split. Choose of test"):
        BENCH.load(BenchFiles(path, splits=splits, split="mini"))
    with pytest.raises(VistuneError, match="--captions would be ignored"):
        refuse_ignored(BENCH, BenchFiles(path, captions=path))
    lines = tmp_path / "answers.jsonl"
    lines.write_text('{"id": "2", "answer": "A"}\n', encoding="utf-8")
    with pytest.raises(VistuneError, match=r"holds no answer indices. Leave --stored-indices out"):
        scored(BenchFiles(path, stored_indices=True), lines)
    assert scored(BenchFiles(path), lines)[2][0].right
