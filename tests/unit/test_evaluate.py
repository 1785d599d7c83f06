"""Answering and scoring on a tiny model: each question alone, resumable, and nothing lost."""

import json

import pytest

from tests.tiny import tiny_checkpoint
from vistune.conversation import Conversation, ask, gpt, human
from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.errors import VistuneError
from vistune.evaluate.answer import Answer, answer_all, exact_match, questions_of, read_answers
from vistune.evaluate.exact import accuracy, accuracy_by_kind, table, wilson_interval
from vistune.evaluate.run import evaluate
from vistune.model.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(tiny_checkpoint(tokenizer), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, world_annotations):
    folder = tmp_path_factory.mktemp("data") / "val"
    generate(
        world_annotations,
        OfflineTeacher(world_annotations.categories),
        folder,
        GenerationSettings(seed=0, picture="first"),
    )
    return folder / "conversation.json"


def made_up(correct, kind="count", number=0):
    return Answer(f"q{number}", "a.jpg", kind, "How many?", "Two.", "Two." if correct else "Three.", correct)


def test_every_question_is_asked_alone_with_its_kind():
    talk = Conversation(
        "7",
        (
            human(*ask("Is there a dog in the picture?", "a.jpg")),
            gpt("Yes."),
            human("Why do dogs bark?"),
            gpt("Nobody knows."),
        ),
    )
    first, second = questions_of([talk])
    assert (first.id, first.kind, first.reference) == ("7-0", "presence", "Yes.")
    assert (second.id, second.kind, second.image) == ("7-1", "other", "a.jpg")
    assert questions_of([Conversation("8", (human("Why?"), gpt("Nobody knows.")))]) == []


@pytest.mark.parametrize(
    ("answer", "reference", "right"),
    [
        ("Two.", "Two.", True),
        ("two", "Two.", True),
        (" Two \n", "Two.", True),
        ("At  the top.", "At the top.", True),
        ("Two dogs.", "Two.", False),
        ("", "Two.", False),
        ("A cat and a dog.", "A dog and a cat.", False),
    ],
)
def test_exact_match_forgives_case_space_and_full_stop_only(answer, reference, right):
    assert exact_match(answer, reference) is right


def test_accuracy_counts_and_says_how_sure_it_is():
    answers = [
        made_up(True, "count"),
        made_up(True, "count"),
        made_up(False, "count"),
        made_up(True, "listing"),
    ]
    whole = accuracy(answers)
    assert (whole.value, whole.count) == (0.75, 4)
    assert whole.low == pytest.approx(0.3006, abs=1e-4) and whole.high == pytest.approx(0.9544, abs=1e-4)
    by_kind = accuracy_by_kind(answers)
    assert {kind: (row.value, row.count) for kind, row in by_kind.items()} == {
        "count": (pytest.approx(2 / 3), 3),
        "listing": (1.0, 1),
    }


def test_wilson_interval_against_values_worked_out_by_hand():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert wilson_interval(10, 10)[1] == 1.0 and wilson_interval(0, 10)[0] == 0.0


def test_an_evaluation_leaves_answers_and_scores(saved, data, tiny_world, tmp_path):
    result = evaluate(saved, data, tiny_world / "images", tmp_path / "out")
    asked = sum(len(record["conversations"]) // 2 for record in json.loads(data.read_text()))
    assert len(result.answers) == len(result.blind) == asked == result.scores["accuracy"]["count"]
    assert list(read_answers(tmp_path / "out" / "answers.jsonl")) == result.answers
    assert [a.id for a in result.answers] == [b.id for b in result.blind]
    assert [a.answer for a in result.answers] != [b.answer for b in result.blind]
    stored = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert stored == result.scores
    assert stored["decoding"]["strategy"] == "greedy" and stored["template"] == "short"
    last = table(stored).splitlines()[-1].split()
    assert last[0] == "all" and last[-1] == str(asked)


def test_an_interrupted_evaluation_goes_on_where_it_stopped(saved, data, tiny_world, tmp_path):
    whole = evaluate(saved, data, tiny_world / "images", tmp_path / "whole")
    evaluate(saved, data, tiny_world / "images", tmp_path / "parted")
    path = tmp_path / "parted" / "answers.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    marked = json.loads(lines[0]) | {"answer": "kept as it was"}
    path.write_text(json.dumps(marked) + "\n" + lines[1] + lines[2][: len(lines[2]) // 2])
    again = evaluate(saved, data, tiny_world / "images", tmp_path / "parted")
    assert again.answers[0].answer == "kept as it was"
    assert again.answers[1:] == whole.answers[1:]
    assert len(list(read_answers(path))) == len(whole.answers)


def test_a_folder_with_another_evaluation_is_refused(saved, data, tiny_world, tmp_path):
    evaluate(saved, data, tiny_world / "images", tmp_path / "out", limit=2)
    with pytest.raises(VistuneError, match="another limit"):
        evaluate(saved, data, tiny_world / "images", tmp_path / "out", limit=3)


def test_questions_about_a_missing_picture_are_set_aside(saved, data, tiny_world, tmp_path):
    records = json.loads(data.read_text())
    records[0]["image"] = "nowhere.jpg"
    spoiled = tmp_path / "data.json"
    spoiled.write_text(json.dumps(records))
    result = evaluate(saved, spoiled, tiny_world / "images", tmp_path / "out")
    assert "nowhere.jpg" not in {answer.image for answer in result.answers}
    assert result.scores["set_aside"] == {"picture is missing": 1}
    assert "nowhere.jpg" in (tmp_path / "out" / "set_aside.jsonl").read_text()


def test_batches_do_not_change_answers(tokenizer, data, tiny_world, tmp_path, monkeypatch):
    from vistune.data.samples import read_conversations
    from vistune.evaluate import answer

    questions = questions_of(read_conversations(data)[0])[:12]
    checkpoint = tiny_checkpoint(tokenizer)
    together = answer_all(checkpoint, questions, tiny_world / "images", tmp_path / "a.jsonl")
    monkeypatch.setattr(answer, "BATCH_SIZE", 1)
    alone = answer_all(checkpoint, questions, tiny_world / "images", tmp_path / "b.jsonl")
    assert together == alone
