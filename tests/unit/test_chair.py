"""CHAIR: figures worked out by hand, COCO's own captions, and files that are not as they should be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import Bench, BenchFiles
from vistune.evaluate.benches.chair import BENCHES
from vistune.evaluate.measure import measures
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import join, read_sheet
from vistune.prompts import question_list

CHAIR: Bench = BENCHES[0]
CATEGORIES = ["dog", "cat", "bicycle", "motorcycle", "teddy bear"]
IN_PICTURES = {7: ["dog", "dog", "cat"], 3: ["motorcycle"], 5: []}


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def instances(tmp_path: Path) -> Path:
    """Three pictures: two dogs and a cat, a motorcycle, nothing."""
    boxes = [
        {"image_id": image, "category_id": CATEGORIES.index(name), "bbox": [1, 1, 9, 9]}
        for image, names in IN_PICTURES.items()
        for name in names
    ]
    images = [
        {"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg", "width": 64, "height": 48} for i in IN_PICTURES
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES)]
    content = {"images": images, "annotations": boxes, "categories": categories}
    return write(tmp_path / "instances.json", content)


def scored(files: BenchFiles, answers: dict[int, str], folder: Path) -> list[Outcome]:
    questions = CHAIR.load(files).questions
    sheet = folder / "answers.jsonl"
    rows = [json.dumps({"id": str(name), "answer": text}) for name, text in answers.items()]
    sheet.write_text("\n".join(rows), encoding="utf-8")
    return CHAIR.score(questions, join(questions, read_sheet(sheet)).sheet, files)


def test_one_fixed_request_for_each_picture_in_the_files_order(instances: Path) -> None:
    questions = CHAIR.load(BenchFiles(data=instances))
    assert [(q.id, q.image) for q in questions.questions] == [
        ("7", "COCO_val2014_000000000007.jpg"),
        ("3", "COCO_val2014_000000000003.jpg"),
        ("5", "COCO_val2014_000000000005.jpg"),
    ]
    assert {q.text for q in questions.questions} == {question_list("detail")[0]}
    assert [q.references for q in questions.questions] == [("cat", "dog"), ("motorcycle",), ()]
    assert questions.official is None and questions.whole and questions.problems == []


def test_figures_worked_out_by_hand(instances: Path, tmp_path: Path) -> None:
    texts = {
        7: "Two dogs and a teddy bear. A puppy sleeps; there is no motorcycle. A stuffed bear lies there.",
        3: "A bike stands at the wall.",
        5: "An empty road. It might be waiting for a cat.",
    }
    first, second, third = scored(BenchFiles(data=instances), texts, tmp_path)
    assert first.sums == {"CHAIRs": (1, 1), "CHAIRi": (2, 4), "recall": (1, 2)}
    assert (first.read, first.right, first.note) == ("dog, teddy bear", False, "invented: teddy bear")
    assert second.sums == {"CHAIRs": (0, 1), "CHAIRi": (0, 1), "recall": (1, 1)}
    assert (second.read, second.right, second.note) == ("bicycle or motorcycle", True, "")
    assert third.sums == {"CHAIRs": (0, 1)}, "nothing is named and nothing is there"
    assert (third.read, third.right) == ("", True)
    found = measures([first, second, third], CHAIR.names)
    values = {name: round(measure.value, 2) for name, measure in found.items()}
    assert values == {"CHAIRs": 33.33, "CHAIRi": 40.0, "recall": 66.67}
    assert {name: measure.count for name, measure in found.items()} == {"CHAIRs": 3, "CHAIRi": 2, "recall": 2}


def test_what_captions_name_is_present_too(instances: Path, tmp_path: Path) -> None:
    told = {"annotations": [{"image_id": 5, "caption": "A kitten, and no dog."}]}
    files = BenchFiles(data=instances, captions=write(tmp_path / "captions.json", told))
    text = {5: "A cat beside a dog."}
    (alone,) = scored(BenchFiles(data=instances), text, tmp_path)
    (both,) = scored(files, text, tmp_path)
    assert (alone.note, both.note) == ("invented: cat, dog", "invented: dog")
    assert both.references == ("cat",) and both.sums["recall"] == (1, 1)


def test_an_empty_answer_is_told_and_recalls_nothing(instances: Path, tmp_path: Path) -> None:
    (outcome,) = scored(BenchFiles(data=instances), {7: " \n"}, tmp_path)
    assert (outcome.read, outcome.right, outcome.note) == (None, None, "empty answer")
    assert outcome.sums == {"CHAIRs": (0, 1), "recall": (0, 2)}


def test_pictures_without_an_answer_are_left_out(instances: Path, tmp_path: Path) -> None:
    assert [o.id for o in scored(BenchFiles(data=instances), {5: "A road.", 7: "A dog."}, tmp_path)] == [
        "7",
        "5",
    ]


def test_broken_annotations_are_set_aside_and_broken_files_refused(instances: Path, tmp_path: Path) -> None:
    content = json.loads(instances.read_text())
    content["annotations"][1] = {"image_id": "seven"}
    questions = CHAIR.load(BenchFiles(data=write(tmp_path / "spoiled.json", content)))
    assert [problem.reason for problem in questions.problems] == ["malformed annotation"]
    assert questions.questions[0].references == ("cat", "dog"), "the other dog is left"
    with pytest.raises(VistuneError, match="--data"):
        CHAIR.load(BenchFiles())
    with pytest.raises(VistuneError, match="no category"):
        CHAIR.load(BenchFiles(data=write(tmp_path / "a.json", {**content, "categories": []})))
    with pytest.raises(VistuneError, match="no picture"):
        CHAIR.load(BenchFiles(data=write(tmp_path / "b.json", {**content, "images": []})))
    with pytest.raises(VistuneError, match="annotations` is missing"):
        CHAIR.load(BenchFiles(data=write(tmp_path / "c.json", {"images": [], "categories": []})))


def test_cocos_captions_invent_next_to_nothing_and_a_strangers_much(coco_mini: Path, tmp_path: Path) -> None:
    """Each photograph's first caption, scored against its own picture and against the next one."""
    folder = coco_mini / "annotations"
    files = BenchFiles(folder / "instances_train2017.json", captions=folder / "captions_train2017.json")
    captions: dict[int, str] = {}
    for row in json.loads(files.captions.read_text())["annotations"]:  # type: ignore[union-attr]
        captions.setdefault(row["image_id"], row["caption"])
    assert len(captions) == 80
    own = measures(scored(files, captions, tmp_path), CHAIR.names)
    assert own["CHAIRs"].value == own["CHAIRi"].value == 0, "what its captions name is present"
    boxes_only = measures(scored(BenchFiles(files.data), captions, tmp_path), CHAIR.names)
    ids = list(captions)
    moved = {name: captions[ids[i - 1]] for i, name in enumerate(ids)}
    foreign = measures(scored(files, moved, tmp_path), CHAIR.names)
    assert 0 < boxes_only["CHAIRi"].value < 15
    assert foreign["CHAIRi"].value > 50 and foreign["CHAIRs"].value > 50
    assert foreign["recall"].value < own["recall"].value / 2
    assert own["CHAIRs"].low == 0 and own["CHAIRs"].high < 6
