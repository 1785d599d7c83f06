"""ScienceQA as instruction data: what a record says, and what is set aside."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.unit.test_scienceqa import OFFICIAL, write
from vistune.conversation import Picture
from vistune.data.check.run import CheckSettings, check
from vistune.data.samples import read_conversations
from vistune.data.scienceqa.convert import run_convert
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.letter import read_letter
from vistune.evaluate.benches.scienceqa import BENCHES

TRAIN = {**OFFICIAL, "split": "train"}
PICTURED = {**TRAIN, "image": "image.png", "hint": "Look.", "answer": 1, "lecture": " Fish have gills.\n"}


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "train" / "2").mkdir(parents=True)
    Image.new("RGB", (8, 6), "red").save(folder / "train" / "2" / "image.png")
    return folder


def converted(tmp_path, images, problems, order="lea", name="out.json", **given):
    path = write(tmp_path / "problems.json", problems)
    lines = list(run_convert(path, given.get("splits"), "train", order, images, tmp_path / name))
    aside = [json.loads(line) for line in (tmp_path / "out.set_aside.jsonl").read_text().splitlines()]
    return lines, aside


@pytest.mark.parametrize(
    ("order", "answers"),
    [
        (
            "lea",
            [
                "Birds have feathers.\nA crow has feathers.\nThe answer is A.",
                "Fish have gills.\nA crow has feathers.\nThe answer is B.",
                "The answer is A.",
            ],
        ),
        (
            "answer-first",
            [
                "The answer is A.\nBirds have feathers.\nA crow has feathers.",
                "The answer is B.\nFish have gills.\nA crow has feathers.",
                "The answer is A.",
            ],
        ),
    ],
)
@pytest.mark.parametrize("kind", ["json", "jsonl", "parquet"])
def test_what_a_record_says(tmp_path, images, order, answers, kind):
    problems = {"1": TRAIN, "2": PICTURED, "3": {**TRAIN, "lecture": "", "solution": " "}, "9": OFFICIAL}
    lines, aside = converted(tmp_path, images, problems, order, f"out.{kind}")
    assert lines[0] == f"{tmp_path / f'out.{kind}'}: 3 problems, 1 of them with a picture" and not aside
    assert lines[1:] == ["the published split train has 12,726 problems; this one 3"]
    conversations, faults = read_conversations(tmp_path / f"out.{kind}")
    assert not faults and [c.id for c in conversations] == ["1", "2", "3"]
    assert [c.turns[1].text for c in conversations] == answers
    assert [read_letter(text, 3).letter for text in answers] == ["A", "B", "A"]
    asked = "Question: Which is a bird?\nContext: Look.\nOptions:\n(A) a crow\n(B) a carp\n(C) a cat\n"
    assert conversations[1].turns[0].content == (asked, Picture("train/2/image.png"))
    assert conversations[0].pictures == []
    report = check(tmp_path / f"out.{kind}", images, CheckSettings(workers=1), lambda finding: None)
    assert (report.records, report.usable, report.errors) == (3, 3, {})


def test_a_question_is_learned_as_it_will_be_asked(tmp_path, images):
    problems = {"1": TRAIN, "2": PICTURED}
    converted(tmp_path, images, problems)
    conversations, _ = read_conversations(tmp_path / "out.json")
    questions = BENCHES[0].load(BenchFiles(tmp_path / "problems.json", split="train")).questions
    assert [c.turns[0].text for c in conversations] == [q.text for q in questions]
    assert [c.pictures for c in conversations] == [[], [questions[1].image]]


def test_what_cannot_be_learned_from_is_set_aside_and_counted(tmp_path, images):
    problems = {
        "1": {**TRAIN, "answer": 9},
        "2": PICTURED,
        "3": PICTURED,
        "4": {**PICTURED, "image": "../../../secret.png"},
        "5": {**TRAIN, "solution": "The answer is A. Or so."},
        "6": {**TRAIN, "hint": "an <image> tag"},
        "7": {**TRAIN, "lecture": "half \ud83d"},
    }
    (images / "train" / "3").mkdir()
    (images / "train" / "3" / "image.png").write_bytes(b"not a picture")
    lines, aside = converted(tmp_path, images, {**problems, "8": PICTURED})
    assert [c.id for c in read_conversations(tmp_path / "out.json")[0]] == ["2"]
    assert sorted((row["place"].rpartition(" ")[2], row["reason"]) for row in aside) == [
        ("1", "unusable problem"),
        ("3", "not a picture"),
        ("4", "picture outside the folder of images"),
        ("5", "its lecture or solution states an answer, which could then not be read"),
        ("6", "unusable problem"),
        ("7", "unusable problem"),
        ("8", "picture is missing"),
    ]
    assert f"set aside: 3 x unusable problem (see {tmp_path / 'out.set_aside.jsonl'})" in lines


def test_a_split_is_taken_from_the_lists_where_they_are_given(tmp_path, images):
    splits = write(tmp_path / "splits.json", {"train": ["2", "5"], "test": ["1"]})
    bare = {key: value for key, value in PICTURED.items() if key != "split"}
    _, aside = converted(tmp_path, images, {"1": bare, "2": bare}, splits=splits)
    assert [c.pictures for c in read_conversations(tmp_path / "out.json")[0]] == [["train/2/image.png"]]
    assert [row["detail"] for row in aside] == ["it is in the split, but not among the problems"]


def test_what_would_be_wrong_or_lost_is_refused(tmp_path, images):
    path, out = write(tmp_path / "p.json", {"1": TRAIN}), tmp_path / "out.json"
    reduced = write(
        tmp_path / "r.json",
        {"1": {"stem": "Q?", "choices": ["a", "b"], "answer": 0, "has_image": False, "has_text": False,
               "grade": "grade1", "subject": "natural science", "split": "train"}},
    )  # fmt: skip
    for given, told in (
        ((path, None, "train", "ale", images, out), "--order ale: choose of lea, answer-first"),
        ((path, None, "train", "lea", images, tmp_path / "out.txt"), "ends in .json"),
        ((path, None, "train", "lea", tmp_path / "no", out), "no such folder of images"),
        ((path, None, "dev", "lea", images, out), "no problem is of split dev"),
        ((reduced, None, "train", "lea", images, out), "reduced form, without lectures"),
    ):
        with pytest.raises(VistuneError, match=told):
            list(run_convert(*given))
        assert not out.exists()
    write(path, {"1": {**TRAIN, "image": "image.png"}})
    with pytest.raises(VistuneError, match=r"no problem can be used. .*out.set_aside.jsonl says why"):
        list(run_convert(path, None, "train", "lea", images, out))
    assert not out.exists() and not list(tmp_path.glob("*.part*"))
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(VistuneError, match=r"exists. Choose another --out"):
        list(run_convert(path, None, "train", "lea", images, out))
    assert out.read_text(encoding="utf-8") == "mine"
