"""Answering a benchmark with a tiny model: each question alone, resumable, and nothing lost."""

import json

import pytest

from tests.tiny import tiny_checkpoint
from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.errors import VistuneError
from vistune.evaluate.answering.ours import TOO_LONG, Ours
from vistune.evaluate.answering.run import Asking, evaluate
from vistune.evaluate.benches.bench import BenchFiles
from vistune.model.checkpoint import save_checkpoint


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(tiny_checkpoint(tokenizer), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory, world_annotations):
    folder = tmp_path_factory.mktemp("data") / "val"
    teacher = OfflineTeacher(world_annotations.categories)
    generate(world_annotations, teacher, folder, GenerationSettings(seed=0, picture="first"))
    return folder / "conversation.json"


@pytest.fixture
def run(saved, data, tiny_world, tmp_path):
    """Evaluate into a folder of that name."""

    def run(name, questions=data, images=tiny_world / "images", model=saved, **asking):
        return evaluate(
            model, "own", BenchFiles(data=questions), images, tmp_path / name, Asking(most=8, **asking)
        )

    return run


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_an_evaluation_leaves_answers_how_they_were_made_and_scores(run, data, tmp_path):
    done = run("out", blind=True)
    asked = sum(len(record["conversations"]) // 2 for record in json.loads(data.read_text()))
    answers, blind = rows_of(tmp_path / "out/answers.jsonl"), rows_of(tmp_path / "out/answers_blind.jsonl")
    assert len(answers) == asked == done.scored.measures["all"].count
    assert [row["id"] for row in answers] == [row["id"] for row in blind]
    assert [row["answer"] for row in answers] != [row["answer"] for row in blind]
    scores = json.loads((tmp_path / "out/scores.json").read_text())
    assert scores["complete"] and scores["counts"]["all"] == scores["blind"]["counts"]["all"] == asked
    made = json.loads((tmp_path / "out/evaluation.json").read_text())
    assert scores["made"] == made and made["decoding"] == {"strategy": "greedy"}
    assert made["checkpoint"].startswith("sha256:") and made["template"] == "short"
    assert made["prompt"].count("<image>") == 1 and "QUESTION" in made["prompt"]


def test_an_interrupted_evaluation_goes_on_where_it_stopped(run, tmp_path):
    run("whole")
    run("parted")
    whole, path = rows_of(tmp_path / "whole/answers.jsonl"), tmp_path / "parted/answers.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    marked = json.loads(lines[1]) | {"answer": "kept as it was"}
    path.write_text(json.dumps(marked) + "\n" + lines[2] + lines[0][: len(lines[0]) // 2])
    run("parted")
    again = rows_of(path)
    assert again[1]["answer"] == "kept as it was"
    assert [again[0], *again[2:]] == [whole[0], *whole[2:]]


def test_how_many_are_answered_together_changes_nothing(run, tmp_path):
    run("together")
    run("alone", rows=1)
    assert rows_of(tmp_path / "together/answers.jsonl") == rows_of(tmp_path / "alone/answers.jsonl")


def test_a_folder_with_another_evaluation_is_refused(run):
    run("out", limit=2)
    with pytest.raises(VistuneError, match="another limit"):
        run("out", limit=3)


def test_fewer_questions_than_the_benchmark_has_are_not_its_score(run, tmp_path):
    done = run("out", limit=3)
    assert not done.scored.complete
    assert "scores" not in json.loads((tmp_path / "out/scores.json").read_text())


def test_an_instruction_is_added_to_each_question_and_stored(run, tmp_path):
    run("out", limit=2, instruction="In one word.")
    assert all(row["question"].endswith("\nIn one word.") for row in rows_of(tmp_path / "out/answers.jsonl"))
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["instruction"] == "In one word."


def test_missing_and_broken_pictures_are_set_aside_and_counted(run, data, tiny_world, tmp_path):
    records = json.loads(data.read_text())
    records[0]["image"] = "nowhere.jpg"
    spoiled = tmp_path / "data.json"
    spoiled.write_text(json.dumps(records))
    done = run("out", spoiled)
    lost = len(records[0]["conversations"]) // 2
    assert "nowhere.jpg" not in {row["image"] for row in rows_of(tmp_path / "out/answers.jsonl")}
    reasons = [row["reason"] for row in rows_of(tmp_path / "out/set_aside.jsonl")]
    assert reasons.count("picture is missing") == reasons.count("no answer") == lost
    assert not done.scored.complete and len(done.scored.missing) == lost


def test_a_question_that_the_model_cannot_read_whole_is_set_aside(run, tmp_path, tiny_world):
    image = next((tiny_world / "images").iterdir()).name
    rows = [
        {"id": "short", "image": image, "question": "Why?", "answer": "Because."},
        {"id": "long", "image": image, "question": "why " * 600, "answer": "Because."},
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run("out", own)
    assert [row["id"] for row in rows_of(tmp_path / "out/answers.jsonl")] == ["short"]
    assert TOO_LONG in {row["reason"] for row in rows_of(tmp_path / "out/set_aside.jsonl")}


def test_no_usable_picture_at_all_is_an_error(run, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(VistuneError, match="no question could be asked"):
        run("out", images=tmp_path / "empty")
    assert rows_of(tmp_path / "out/set_aside.jsonl")


def test_a_benchmark_with_pictures_needs_their_place(run):
    with pytest.raises(VistuneError, match="--images"):
        run("out", images=None)


def test_answers_come_from_the_checkpoint_that_is_described(saved, tokenizer, tmp_path):
    other = tmp_path / "other"
    save_checkpoint(tiny_checkpoint(tokenizer, seed=1), other)
    assert Ours(saved).description["checkpoint"] != Ours(other).description["checkpoint"]
