"""LLaVA-Bench: questions, reviews, the relative score, and the published one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import SHARED_DATA
from tests.fake_judge import lines
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.llava_bench import BENCHES, LlavaBench
from vistune.evaluate.judge.cases import load_cases
from vistune.evaluate.measure import measures
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.runs import over_runs
from vistune.evaluate.sheet import join, read_sheet

COCO, WILD = BENCHES
NO_FILES = BenchFiles()


def shared(name: str) -> Path:
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs ../shared/data/{name}, which is not part of the repository")
    return folder


def scored(path: Path, data: Path | None = None, bench: LlavaBench = WILD) -> list[Outcome]:
    sheet = read_sheet(path)
    questions = (bench.load(BenchFiles(data=data)) if data else bench.load_from(sheet, NO_FILES)).questions
    joined = join(questions, sheet, lambda row: bench.key(questions, row))
    return bench.score(questions, joined.sheet, NO_FILES)


def review(question: object, content: str, kind: str = "llava_bench_conv", **more: Any) -> dict[str, Any]:
    return {"id": 90 + len(content), "question_id": question, "category": kind, "content": content, **more}


# Published files


@pytest.mark.parametrize("with_questions", [False, True])
def test_published_reviews_give_the_published_scores(with_questions: bool):
    folder = shared("llava-bench-wild")
    data = folder / "questions.jsonl" if with_questions else None
    runs = []
    for number, expected in ((1, 72.8), (2, 72.7), (3, 72.1)):
        outcomes = scored(folder / f"reviews_llava-v1.5-13b_run{number}.jsonl", data)
        assert len(outcomes) == WILD.official and all(
            outcome.read and not outcome.note for outcome in outcomes
        )
        runs.append(measures(outcomes, WILD.names))
        assert round(runs[-1]["all"].value, 1) == expected
        assert {name: measure.count for name, measure in runs[-1].items()} == {
            "conversation": 17, "detail": 15, "complex": 28, "all": 60,
        }  # fmt: skip
    over = over_runs(runs)
    assert round(over.mean["all"], 1) == 72.5 and over.runs == 3
    assert over.deviation["all"] == pytest.approx(0.413, abs=5e-4)


def test_published_coco_files_make_ninety_cases_with_captions_and_boxes():
    folder = shared("llava-bench-coco")
    questions, references = folder / "qa90_questions.jsonl", folder / "qa90_gpt4_answer.jsonl"
    context = folder / "caps_boxes_coco2014_val_80.jsonl"
    found = load_cases(COCO, questions, context, references, references)
    assert found.questions.whole and not found.problems and len(found.cases) == 90
    kinds = [case.question.kind for case in found.cases]
    assert {kind: kinds.count(kind) for kind in COCO.names[:3]} == {
        "conversation": 30, "detail": 30, "complex": 30,
    }  # fmt: skip
    first = found.cases[0]
    assert first.question.text == "What is the color of the two suitcases in the image?"
    assert first.reference.text.startswith("The colors of the two suitcases")
    captions, boxes = first.context.split("\n\n")
    assert len(captions.split("\n")) == 5 and all(": [" in line for line in boxes.split("\n"))


def test_published_answers_and_references_join_by_id_however_they_are_ordered(tmp_path: Path):
    folder = shared("llava-bench-wild")
    files = [folder / name for name in ("questions.jsonl", "context.jsonl", "answers_gpt4.jsonl")]
    whole = load_cases(WILD, *files, folder / "answers_llava-v1.5-13b.jsonl")
    turned = tmp_path / "answers.jsonl"
    rows = (folder / "answers_llava-v1.5-13b.jsonl").read_text().splitlines()
    turned.write_text("\n".join(reversed(rows)))
    again = load_cases(WILD, *files, turned)
    assert len(whole.cases) == 60 and not whole.problems
    texts = [[case.candidate.text for case in found.cases] for found in (whole, again)]
    assert texts[0] == texts[1]


# Reviews


def test_score_is_a_ratio_of_means_and_failures_are_left_out(tmp_path: Path):
    lines(tmp_path / "reviews.jsonl", [
        review(1, "10 5\nFine."),
        review(2, "2 4", "detail"),
        review(3, "Both are good.\n9 9", "detail", tuple=[-1, -1]),
        review(4, "8 8", "complex"),
    ])  # fmt: skip
    outcomes = scored(tmp_path / "reviews.jsonl")
    found = {name: (measure.value, measure.count) for name, measure in measures(outcomes, WILD.names).items()}
    assert found == {
        "conversation": (50.0, 1), "detail": (200.0, 1), "complex": (100.0, 1), "all": (85.0, 3),
    }  # fmt: skip
    unread = outcomes[2]
    assert (unread.read, unread.sums) == (None, {}) and "not two scores: Both are good." in unread.note


def test_swapped_review_has_the_candidate_first(tmp_path: Path):
    lines(tmp_path / "reviews.jsonl", [review(1, "10 5", swapped=True), review(2, "10 5", swapped=False)])
    outcomes = scored(tmp_path / "reviews.jsonl")
    assert [outcome.sums["all"] for outcome in outcomes] == [(10, 5), (5, 10)]
    lines(tmp_path / "reviews.jsonl", [review(1, "10 5", swapped="false")])
    with pytest.raises(VistuneError, match=r"reviews.jsonl:1: `swapped`: expected true or false"):
        scored(tmp_path / "reviews.jsonl")


def test_stored_scores_are_not_trusted_and_a_disagreement_is_told(tmp_path: Path):
    lines(tmp_path / "reviews.jsonl", [
        review(1, "8 6", tuple=[8.0, 6.0]), review(2, "8 6", tuple=[9, 9]), review(3, "Well.", tuple=[9, 9]),
    ])  # fmt: skip
    same, other, unread = scored(tmp_path / "reviews.jsonl")
    assert same.note == "" and same.sums == other.sums
    assert other.note == "the file reads the review as [9, 9]; its text says 8 6"
    assert unread.sums == {}


def test_answers_are_refused_with_the_remedy(tmp_path: Path):
    write_questions(tmp_path / "questions.jsonl")
    lines(tmp_path / "answers.jsonl", [{"id": "1", "answer": "A dog."}])
    for data in (None, tmp_path / "questions.jsonl"):
        with pytest.raises(
            VistuneError, match=r"answers.jsonl:1: an answer, not .*`vistune judge llava-bench-wild"
        ):
            scored(tmp_path / "answers.jsonl", data)


def test_category_is_read_in_every_spelling_and_an_unknown_one_is_set_aside(tmp_path: Path):
    names = ("conv", "llava_bench_conv", "conversation", "llava_bench_complex", "poetry", None)
    rows = [review(number, "5 5", name) for number, name in enumerate(names)]  # type: ignore[arg-type]
    lines(tmp_path / "reviews.jsonl", rows)
    questions = WILD.load_from(read_sheet(tmp_path / "reviews.jsonl"), NO_FILES)
    assert [question.kind for question in questions.questions] == [*["conversation"] * 3, "complex"]
    assert [(p.reason, p.detail) for p in questions.problems] == [
        ("unknown category", "'poetry'"), ("unknown category", "None"),
    ]  # fmt: skip
    assert not questions.whole


# Questions


def write_questions(path: Path, *more: object) -> None:
    rows = [{"question_id": 1, "image": "1.jpg", "text": "What? ", "category": "conv"}, *more]
    path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))


def test_questions_that_cannot_be_used_are_set_aside_with_their_line(tmp_path: Path):
    path = tmp_path / "questions.jsonl"
    good = {"question_id": 2, "image": "1.jpg", "text": "Why?", "category": "complex"}
    write_questions(
        path, good, "{\n", {**good, "question_id": None}, {**good, "text": " "}, {**good, "category": "odd"},
        {**good, "image": 3}, good, {**good, "question_id": 1},
    )  # fmt: skip
    questions = WILD.load(BenchFiles(data=path))
    assert [(question.id, question.text, question.kind) for question in questions.questions] == [
        ("2", "Why?", "complex")
    ]
    assert [(problem.place.rsplit(":")[-1], problem.reason) for problem in questions.problems] == [
        ("3", "not JSON"),
        ("4", "no question_id"),
        ("5", "a question without words"),
        ("6", "unknown category"),
        ("7", "image is no file name"),
        ("8", "the same question twice; asked once"),
        ("9", "two different questions of one id; neither used"),
    ]
    assert not questions.whole and questions.official == 60


def test_questions_are_needed_to_ask_them(tmp_path: Path):
    with pytest.raises(VistuneError, match="llava-bench-coco needs its questions: give --data"):
        COCO.load(NO_FILES)
    (tmp_path / "questions.jsonl").write_text("{}\n")
    with pytest.raises(VistuneError, match="holds no question"):
        COCO.load(BenchFiles(data=tmp_path / "questions.jsonl"))
