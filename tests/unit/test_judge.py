"""The judge at work, against an endpoint in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fake_judge import fair_judge, in_thread, lines, options, read, write_bench
from tests.fake_llm import error, reply
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.judge.command import run_judge, tell
from vistune.evaluate.judge.run import judge
from vistune.evaluate.score import score_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_bench(tmp_path)
    return tmp_path


def test_reviews_say_what_was_judged_and_how(folder: Path):
    with in_thread(fair_judge) as endpoint:
        judged = judge(options(folder, endpoint.url, runs=2, swap=True))
        assert len(endpoint.bodies) == 6 * 2 * 2
    names = [
        "reviews_run1.jsonl",
        "reviews_run1_swapped.jsonl",
        "reviews_run2.jsonl",
        "reviews_run2_swapped.jsonl",
    ]
    assert sorted(path.name for path in (folder / "out").glob("reviews*")) == names
    for body in endpoint.bodies:
        assert (body["temperature"], body["max_tokens"]) == (0.2, 1024)
    rows = read(folder / "out" / "reviews_run1.jsonl")
    assert [row["question_id"] for row in rows] == [str(number) for number in range(6)]
    assert [row["category"] for row in rows[:3]] == ["conversation", "detail", "complex"]
    assert {(row["judge"], row["swapped"], row["attempts"]) for row in rows} == {("stub", False, 1)}
    assert all(row["content"].startswith("{:g} {:g}\n".format(*row["tuple"])) for row in rows)
    assert not judged.problems and read(folder / "out" / "set_aside.jsonl") == []
    made = json.loads((folder / "out" / "evaluation.json").read_text())
    assert made["judge"] == "stub" and {row["prompt"] for row in rows} == {made["prompt"]}


def test_swap_exchanges_the_answers_and_nothing_else(folder: Path):
    with in_thread(fair_judge) as endpoint:
        judge(options(folder, endpoint.url, swap=True, in_flight=1))
    usual, swapped = (text for text in endpoint.asked if "Question 4?" in text)
    assert usual.index("Picture 1.") < usual.index("Question 4?") < usual.index("Reference 4.")
    assert usual.index("Reference 4.") < usual.index("Candidate 4.")
    assert swapped.index("Candidate 4.") < swapped.index("Reference 4.")
    turned = swapped.replace("Candidate", "#").replace("Reference", "Candidate").replace("#", "Reference")
    assert turned == usual


def test_runs_are_requests_of_their_own_with_and_without_a_seed(folder: Path):
    with in_thread(fair_judge) as endpoint:
        judge(options(folder, endpoint.url, runs=3))
        seeds = [body["seed"] for body in endpoint.bodies]
        assert len(seeds) == len(set(seeds)) == 18
        judge(options(folder, endpoint.url, runs=3, out=folder / "unseeded", param=["seed=null"]))
        assert len(endpoint.bodies) == 36 and not any("seed" in body for body in endpoint.bodies[18:])
        # What was paid for is not asked again; another run is.
        judge(options(folder, endpoint.url, runs=4))
        assert len(endpoint.bodies) == 42


def test_files_score_as_the_judge_scored_them(folder: Path):
    with in_thread(fair_judge) as endpoint:
        judged = judge(options(folder, endpoint.url, runs=2, swap=True))
    scored = score_files("llava-bench-wild", [run.path for run in judged.runs], BenchFiles())
    assert [one.measures for one in scored] == [run.measures for run in judged.runs]
    assert not scored[0].complete and scored[0].made["judge"] == "stub"


def test_prose_before_the_scores_is_asked_again_then_failed_left_out_and_listed(folder: Path):
    async def wordy(number: int, body: dict[str, Any]) -> web.StreamResponse:
        text = body["messages"][-1]["content"]
        if "Question 1?" in text:
            return reply(body, "My scores:\n8 7")
        if "Question 2?" in text and not any("Question 2?" in asked for asked in endpoint.asked[:-1]):
            return reply(body, "I am sorry.")
        return reply(body, "8 4\nSo it is.")

    with in_thread(wordy) as endpoint:
        judged = judge(options(folder, endpoint.url, in_flight=1))
        assert len(endpoint.bodies) == 6 + 2 + 1
        told = list(run_judge(options(folder, endpoint.url)))
        assert len(endpoint.bodies) == 9
    rows = read(folder / "out" / "reviews_run1.jsonl")
    assert [row["attempts"] for row in rows] == [1, 3, 2, 1, 1, 1] and rows[1]["tuple"] is None
    (problem,) = judged.problems
    assert (problem.place, problem.reason) == ("run 1, question 1", "the first line is not two scores")
    assert read(folder / "out" / "set_aside.jsonl") == [vars(problem)]
    (run,) = judged.runs
    assert len(run.outcomes) == 6 and run.measures["all"].count == 5 and run.measures["all"].value == 50
    assert "5 of 60 questions: not the benchmark's score" in told[0]
    assert "left out, without scores: 1 reviews" in told[0]
    assert [line for line in told if line.startswith("set aside: 1 x the first line is not two scores")]
    assert next(line for line in told if line.startswith("asked again")).endswith(": 2 reviews")


def test_each_failure_is_one_problem_and_attempts_can_be_one(folder: Path):
    async def refuses(number: int, body: dict[str, Any]) -> web.StreamResponse:
        if "Question 0?" in body["messages"][-1]["content"]:
            message = {"role": "assistant", "content": None, "refusal": "No."}
            return web.json_response({"choices": [{"message": message, "finish_reason": "stop"}]})
        if "Question 5?" in body["messages"][-1]["content"]:
            return error(400, "odd")
        return reply(body, "0 12")

    with in_thread(refuses) as endpoint:
        judged = judge(options(folder, endpoint.url, attempts=1))
    reasons = [(problem.place, problem.reason) for problem in judged.problems]
    assert reasons == [
        ("run 1, question 5", "no reply"),
        ("run 1, question 0", "refused by the judge"),
        *((f"run 1, question {number}", "a score outside 1 to 10") for number in range(1, 5)),
    ]
    assert judged.runs[0].measures == {} and len(judged.runs[0].outcomes) == 5
    assert "no review could be read: there is no score" in list(tell(judged))


def test_table_has_mean_spread_and_bias(folder: Path):
    async def favours_the_first(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return reply(body, "8 6")

    with in_thread(favours_the_first) as endpoint:
        told = list(run_judge(options(folder, endpoint.url, runs=2, swap=True)))
    assert told[0] == (
        "LLaVA-Bench (In-the-Wild), relative score, 6 of 60 questions: not the benchmark's score"
    )
    assert told[1].split() == ["mean", "95%", "interval", "sd", "questions", "run", "1", "run", "2"]
    assert told[5].split() == ["all", "75.0", "75.0", "to", "75.0", "0.0", "6", "75.0", "75.0"]
    bias = [line for line in told if line.startswith("standing first")]
    assert bias == [
        "standing first gains the candidate +58.3 points [+58.3, +58.3] (75.0 as second, 133.3 as first; "
        "6 questions): the place matters"
    ]
    assert told[-2].startswith("spent: ") and "reviews_run2.jsonl --data" in told[-1]


def test_missing_duplicate_unknown_and_empty_answers_are_named(folder: Path):
    lines(folder / "answers.jsonl", [
        {"question_id": 0, "text": ""},
        {"question_id": 1, "text": "One."}, {"question_id": 1, "text": "Two."},
        {"question_id": 2, "text": "Three."}, {"question_id": 77, "text": "Lost."},
        {"question_id": 3, "text": "Four."}, {"question_id": 4, "text": "Five."},
    ])  # fmt: skip
    lines(folder / "references.jsonl", (
        {"question_id": number, "text": " " if number == 2 else "Good."} for number in range(6)
    ))  # fmt: skip
    with in_thread(fair_judge) as endpoint:
        judged = judge(options(folder, endpoint.url))
    assert [row["question_id"] for row in read(folder / "out" / "reviews_run1.jsonl")] == ["0", "3", "4"]
    assert {problem.reason for problem in judged.problems} == {
        "answers no question of this benchmark",
        "two different answers to one question; neither counted",
        "no answer",
        "an empty reference",
        "an empty answer; judged as one",
    }
    missing = [problem.place for problem in judged.problems if problem.reason == "no answer"]
    assert missing == [f"{folder / 'answers.jsonl'}: {number}" for number in (1, 5)]


def test_picture_without_context_is_set_aside(folder: Path):
    lines(folder / "context.jsonl", [{"image": "1.jpg", "caption": "Picture 1."}])
    with in_thread(fair_judge) as endpoint:
        judged = judge(options(folder, endpoint.url))
        assert len(endpoint.bodies) == 3
        assert [p.place for p in judged.problems if p.reason == "no context of its picture"] == [
            "0",
            "1",
            "2",
        ]
        lines(folder / "context.jsonl", [{"image": "9.jpg", "caption": "Picture 9."}])
        with pytest.raises(
            VistuneError, match=r"no question of .* and a context .* no context of its picture"
        ):
            judge(options(folder, endpoint.url, out=folder / "other"))


def test_reviews_in_the_place_of_answers_and_other_benchmarks_are_refused(folder: Path):
    with pytest.raises(VistuneError, match="pope: no benchmark that takes a judge"):
        judge(options(folder, "http://127.0.0.1:9/v1", bench="pope"))
    lines(folder / "answers.jsonl", [{"question_id": 0, "content": "8 7", "category": "conv"}])
    with pytest.raises(VistuneError, match=r"answers.jsonl:1: a review, not an answer"):
        judge(options(folder, "http://127.0.0.1:9/v1"))


def test_folder_of_another_judge_is_refused_but_one_that_said_nothing_stays_free(folder: Path):
    async def locked(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(404, "no such model")

    with in_thread(locked) as endpoint, pytest.raises(VistuneError, match="Check --base-url and --model"):
        judge(options(folder, endpoint.url, model="stab"))
    assert list((folder / "out").iterdir()) == []
    with in_thread(fair_judge) as endpoint:
        judge(options(folder, endpoint.url))
        with pytest.raises(VistuneError, match="holds a run with another judge"):
            judge(options(folder, endpoint.url, model="other"))
        with pytest.raises(VistuneError, match="holds a run with another parameters"):
            judge(options(folder, endpoint.url, param=["temperature=1"]))


def test_run_that_is_stopped_keeps_its_reviews_and_goes_on(folder: Path):
    async def dies(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return await fair_judge(number, body) if number < 3 else error(401, "expired")

    with in_thread(dies) as endpoint:
        command = run_judge(options(folder, endpoint.url, in_flight=1))
        told: list[str] = []
        with pytest.raises(VistuneError, match="the key was refused"):
            told.extend(line for line in command)
    kept = read(folder / "out" / "reviews_run1.jsonl")
    assert len(kept) == 3
    with in_thread(fair_judge) as endpoint:
        judge(options(folder, endpoint.url))
        assert len(endpoint.bodies) == 3
    assert read(folder / "out" / "reviews_run1.jsonl")[:3] == kept
