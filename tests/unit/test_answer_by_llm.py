"""A text-only LLM that answers a benchmark's questions from their words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fake_judge import in_thread, read
from tests.fake_llm import always_fine, completion, error, reply
from vistune.errors import VistuneError
from vistune.evaluate.answering.endpoint import answer_by_llm
from vistune.llm.options import AskOptions
from vistune.question import Question

QUESTIONS = [Question(f"q{n}", f"Which one, {n}?", "a.jpg", (f"{n}",), "kind") for n in range(4)]


def options(url: str, folder: Path, **given: Any) -> AskOptions:
    return AskOptions(**{"model": "stub", "base_url": url, "ledger": folder / "ledger.sqlite", **given})


def test_answers_are_written_and_not_asked_twice(tmp_path: Path):
    with in_thread(always_fine) as endpoint:
        asked = answer_by_llm(QUESTIONS, options(endpoint.url, tmp_path), tmp_path / "out", most=77)
        first = (tmp_path / "out" / "answers.jsonl").read_bytes()
        answer_by_llm(QUESTIONS, options(endpoint.url, tmp_path), tmp_path / "out", most=77)
        assert len(endpoint.bodies) == 4 and (tmp_path / "out" / "answers.jsonl").read_bytes() == first
    rows = read(tmp_path / "out" / "answers.jsonl")
    assert rows[2] == {
        "id": "q2", "image": "a.jpg", "question": "Which one, 2?", "kind": "kind", "references": ["2"],
        "answer": "Reply to Which one, 2?.",
    }  # fmt: skip
    body = endpoint.bodies[0]
    assert (body["temperature"], body["max_tokens"]) == (0.0, 77) and "seed" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]
    made = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert made["model"] == "stub" and made["parameters"]["max_tokens"] == 77
    assert asked.problems == [] and asked.stopped is None


def test_refusal_cut_and_silence_are_told(tmp_path: Path):
    async def answer(number: int, body: dict[str, Any]) -> web.StreamResponse:
        which = body["messages"][-1]["content"][-2]
        content = completion(body, "Part of")
        if which == "0":
            content["choices"][0]["finish_reason"] = "content_filter"
        if which == "1":
            content["choices"][0]["finish_reason"] = "length"
        if which == "2":
            return error(400, "odd")
        if which == "3":
            content["choices"][0]["message"]["content"] = " "
        return web.json_response(content)

    with in_thread(answer) as endpoint:
        asked = answer_by_llm(QUESTIONS, options(endpoint.url, tmp_path), tmp_path / "out", most=7)
    rows = read(tmp_path / "out" / "answers.jsonl")
    assert [(row["id"], row["answer"]) for row in rows] == [("q0", ""), ("q1", "Part of"), ("q3", "")]
    assert [(problem.place, problem.reason) for problem in asked.problems] == [
        ("q2", "no reply"),
        ("q0", "refused; counted as an empty answer"),
        ("q1", "cut off at the token limit"),
        ("q3", "an empty answer"),
    ]
    assert [row["place"] for row in read(tmp_path / "out" / "set_aside.jsonl")] == ["q2", "q0", "q1", "q3"]


def test_stop_keeps_what_is_there_and_nothing_at_all_leaves_the_folder_free(tmp_path: Path):
    async def dies(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return reply(body, "Yes.") if number < 2 else error(401, "expired")

    async def locked(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(401, "expired")

    with in_thread(locked) as endpoint, pytest.raises(VistuneError, match="the key was refused"):
        answer_by_llm(QUESTIONS, options(endpoint.url, tmp_path), tmp_path / "out", most=7)
    assert list((tmp_path / "out").iterdir()) == []
    with in_thread(dies) as endpoint:
        asked = answer_by_llm(
            QUESTIONS, options(endpoint.url, tmp_path, in_flight=1), tmp_path / "out", most=7
        )
    assert "the key was refused" in str(asked.stopped)
    assert len(read(tmp_path / "out" / "answers.jsonl")) == 2
