"""Annotated images -> instruction data: whole, readable, repeatable, and blind to all but the context."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from vistune.conversation import Conversation, from_json, questions_and_answers, to_json
from vistune.data.generation.generate import Generated, generate, read_provenance
from vistune.data.generation.plan import GenerationSettings
from vistune.data.sources.annotated import AnnotatedImage, Annotations, Box
from vistune.data.sources.coco import load_coco
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.data.teachers.teacher import SAMPLE_TYPES, TeacherReply, TeacherRequest
from vistune.errors import Problem, VistuneError
from vistune.prompts import question_list

RECORDS = ("provenance.json", "provenance.jsonl", "quarantine.jsonl", "set_aside.jsonl", "settings.json")
FILES = ("conversation", "detail", "reasoning", "alignment")
CAT = AnnotatedImage(
    "5", ("cat.jpg",), ("A cat sleeps.", "A sleeping cat."), (Box("cat", (0.0, 0.1, 0.5, 0.6)),)
)
DOG = AnnotatedImage("9", ("dog.jpg",), ("A dog runs.",), (Box("dog", (0.4, 0.4, 0.6, 0.625)),))
PETS = Annotations([CAT, DOG], ("cat", "dog"), [])
NONSENSE = "Perhaps.\n===\nI see nothing."


class Scribe:
    """A teacher that answers by the book and remembers what it was shown."""

    name = "scribe"
    boxes_for = frozenset(SAMPLE_TYPES)
    in_flight = 8
    varies = False

    def __init__(self) -> None:
        self.requests: list[TeacherRequest] = []

    def describe(self) -> dict[str, Any]:
        return {"teacher": self.name}

    async def write(self, request: TeacherRequest) -> TeacherReply:
        self.requests.append(request)
        if request.type == "detail":
            return TeacherReply("Something is there.\n\nIt is seen well.")
        return TeacherReply("Question:\nWhat is it?\n===\nAnswer:\nA thing.")

    async def close(self) -> None:
        pass


class Grumbler(Scribe):
    """A scribe that replies nonsense to whatever speaks of a cat."""

    async def write(self, request: TeacherRequest) -> TeacherReply:
        return TeacherReply(NONSENSE) if "cat" in request.context else await super().write(request)


class Dawdler(Scribe):
    """A scribe that answers the earlier requests later."""

    async def write(self, request: TeacherRequest) -> TeacherReply:
        await asyncio.sleep(0.02 if "cat" in request.context else 0)
        return await super().write(request)


def read(folder: Path, name: str) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return records


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def write(annotations: Annotations, out: Path, seed: int = 0) -> Generated:
    return generate(annotations, OfflineTeacher(annotations.categories), out, GenerationSettings(seed=seed))


@pytest.fixture(scope="module", params=["world_annotations", "coco_mini_annotations"])
def annotations(request: pytest.FixtureRequest) -> Annotations:
    """The sample world, and COCO where it is at hand."""
    result: Annotations = request.getfixturevalue(request.param)
    return result


@pytest.fixture(scope="module")
def data(annotations: Annotations, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("instructions")
    write(annotations, out)
    return out


def samples(data: Path) -> Iterator[tuple[str, Conversation]]:
    for name in SAMPLE_TYPES:
        for record in read(data, name):
            yield name, from_json(record)


# What is written


def test_run_leaves_exactly_its_files(data: Path):
    assert sorted(contents(data)) == sorted([*(f"{name}.json" for name in FILES), *RECORDS])


@pytest.mark.parametrize("kind", SAMPLE_TYPES)
def test_every_image_has_one_sample_of_every_type_in_order(annotations: Annotations, data: Path, kind: str):
    written = [(record["id"], record["image"]) for record in read(data, kind)]
    assert written == [(f"{image.id}-{kind}", image.file) for image in annotations.images]


def test_every_caption_is_one_alignment_sample(annotations: Annotations, data: Path):
    told = [(record["image"], record["conversations"][1]["value"]) for record in read(data, "alignment")]
    assert told == [(image.file, caption) for image in annotations.images for caption in image.captions]


@pytest.mark.parametrize("name", FILES)
def test_every_record_is_valid_and_written_as_it_is_read(data: Path, name: str):
    records = read(data, name)
    assert [to_json(from_json(record)) for record in records] == records
    assert len({record["id"] for record in records}) == len(records)


@pytest.mark.parametrize("name", FILES)
def test_image_placeholder_stands_once_and_only_in_the_first_human_turn(data: Path, name: str):
    for record in read(data, name):
        counts = [turn["value"].count("<image>") for turn in record["conversations"]]
        assert counts == [1] + [0] * (len(counts) - 1), record["id"]
        assert record["conversations"][0]["from"] == "human"


def test_no_answer_gives_away_that_it_was_written_from_captions_and_boxes(data: Path):
    for _, conversation in samples(data):
        for _, answer in questions_and_answers(conversation):
            assert not re.search(r"\b(caption|box|boxes|bounding|coordinate)s?\b", answer.lower()), answer


def test_conversations_have_several_turns_and_the_other_types_one(data: Path):
    turns: dict[str, list[int]] = {kind: [] for kind in SAMPLE_TYPES}
    for kind, conversation in samples(data):
        turns[kind].append(len(questions_and_answers(conversation)))
    assert set(turns["detail"]) == set(turns["reasoning"]) == {1}
    assert min(turns["conversation"]) >= 2


def test_detail_and_alignment_questions_come_from_their_lists(data: Path):
    for name, questions in (("detail", "detail"), ("alignment", "brief")):
        asked = {questions_and_answers(from_json(record))[0][0] for record in read(data, name)}
        assert asked <= set(question_list(questions))
        assert len(asked) > 3


def test_provenance_tells_how_the_data_was_made(annotations: Annotations, data: Path):
    record = read_provenance(data)
    images, captions = len(annotations.images), sum(len(image.captions) for image in annotations.images)
    assert (record["teacher"], record["seed"], record["images"]) == ("offline", 0, images)
    assert record["counts"] == {
        "conversation": images,
        "detail": images,
        "reasoning": images,
        "alignment": captions,
    }
    assert record["set_aside"] == {}
    for name, digest in record["question_lists"].items():
        text = resources.files("vistune.prompts").joinpath(f"{name}_questions.txt").read_bytes()
        assert digest == hashlib.sha256(text).hexdigest()


def test_question_lists_are_as_long_as_the_papers():
    assert (len(set(question_list("brief"))), len(set(question_list("detail")))) == (11, 16)


# Repeatable


def test_same_seed_gives_the_same_bytes(annotations: Annotations, data: Path, tmp_path: Path):
    write(annotations, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(data)


def test_another_seed_gives_other_data(annotations: Annotations, data: Path, tmp_path: Path):
    write(annotations, tmp_path / "other", seed=1)
    for name in ("conversation", "detail", "alignment"):
        assert read(tmp_path / "other", name) != read(data, name)


def test_order_does_not_depend_on_which_reply_comes_first(tmp_path: Path):
    generate(PETS, Scribe(), tmp_path / "prompt", GenerationSettings(seed=0))
    generate(PETS, Dawdler(), tmp_path / "late", GenerationSettings(seed=0))
    assert contents(tmp_path / "late") == contents(tmp_path / "prompt")


def test_second_run_into_the_same_folder_is_refused_and_changes_nothing(tmp_path: Path):
    generate(PETS, Scribe(), tmp_path / "out", GenerationSettings(seed=0))
    before = contents(tmp_path / "out")
    with pytest.raises(VistuneError, match=r"out: .*Choose another --out"):
        generate(PETS, Scribe(), tmp_path / "out", GenerationSettings(seed=1))
    assert contents(tmp_path / "out") == before


def test_eighty_photographs_take_less_than_ten_seconds(coco_mini: Path, tmp_path: Path):
    start = time.monotonic()
    tables = coco_mini / "annotations"
    annotations = load_coco(
        tables / "captions_train2017.json", tables / "instances_train2017.json", coco_mini / "train2017"
    )
    write(annotations, tmp_path / "out")
    assert time.monotonic() - start < 10


# The teacher


def test_teacher_sees_captions_and_boxes_and_neither_file_nor_size(tmp_path: Path):
    scribe = Scribe()
    generate(PETS, scribe, tmp_path / "out", GenerationSettings(seed=4))
    shown = {(request.type, request.context) for request in scribe.requests}
    contexts = (
        "A cat sleeps.\nA sleeping cat.\n\ncat: [0, 0.1, 0.5, 0.6]",
        "A dog runs.\n\ndog: [0.4, 0.4, 0.6, 0.625]",
    )
    assert len(scribe.requests) == 6
    assert shown == {(kind, context) for kind in SAMPLE_TYPES for context in contexts}


def test_replies_are_written_word_for_word(tmp_path: Path):
    generate(PETS, Scribe(), tmp_path / "out", GenerationSettings(seed=0))
    assert read(tmp_path / "out", "reasoning")[1] == {
        "id": "9-reasoning",
        "image": "dog.jpg",
        "conversations": [
            {"from": "human", "value": "What is it?\n<image>"},
            {"from": "gpt", "value": "A thing."},
        ],
    }
    answer = read(tmp_path / "out", "detail")[0]["conversations"][1]["value"]
    assert answer == "Something is there.\n\nIt is seen well."


def test_nonsense_about_one_image_is_quarantined_with_its_raw_text_and_the_rest_is_kept(tmp_path: Path):
    result = generate(PETS, Grumbler(), tmp_path / "out", GenerationSettings(seed=0))
    rows = [json.loads(line) for line in (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(row["id"] for row in rows) == ["5-conversation", "5-detail", "5-reasoning"]
    assert {row["reason"] for row in rows} == {"reply does not follow the format"}
    assert all(row["reply"] == NONSENSE for row in rows)
    assert result.quarantined == {"reply does not follow the format": 3}
    assert result.counts == {"conversation": 1, "detail": 1, "reasoning": 1, "alignment": 3}
    assert [record["id"] for record in read(tmp_path / "out", "conversation")] == ["9-conversation"]


def test_nothing_but_nonsense_is_an_error_that_says_where_the_replies_are(tmp_path: Path):
    cats, out = Annotations([CAT], ("cat",), []), tmp_path / "out"
    with pytest.raises(
        VistuneError, match=r"of 3 \(3 x .*see .*quarantine.jsonl.*5-.*does not follow the format"
    ):
        generate(cats, Grumbler(), out)
    replies = [json.loads(line)["reply"] for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert replies == [NONSENSE] * 3
    assert generate(cats, Scribe(), out).counts["detail"] == 1, "the same run may go on"


def test_problems_of_the_annotations_are_passed_on(tmp_path: Path):
    flawed = Annotations([DOG], ("dog",), [Problem("cat.jpg", "picture is missing")])
    result = generate(flawed, Scribe(), tmp_path / "out", GenerationSettings(seed=0))
    assert result.set_aside == {"picture is missing": 1}
    assert '"place": "cat.jpg"' in (tmp_path / "out" / "set_aside.jsonl").read_text()
