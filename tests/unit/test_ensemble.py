"""A model and a text-only LLM together: whose answer stands, what the LLM is asked, what is left open."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

import pytest

from tests.fake_llm import FakeEndpoint, error, reply
from tests.unit.test_scienceqa import LLAVA, OFFICIAL, published, row_of, scored, write
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.letter import read_letter
from vistune.evaluate.ensemble import run_ensemble
from vistune.llm.ledger import Ledger
from vistune.llm.options import AskOptions
from vistune.prompts import load_prompt

__all__ = ["published"]
CROW = "It is a crow.\nThe answer is A."
MODEL = {"1": "The answer is A.", "2": "The answer is B.", "3": CROW, "5": "The answer is C."}
LLM = {"1": "The answer is A.", "2": "The answer is A.", "3": "No picture, no idea.", "4": "B", "5": ""}


@contextmanager
def endpoint(answer) -> Iterator[FakeEndpoint]:
    """A fake endpoint on a loop of its own."""
    loop, fake = asyncio.new_event_loop(), FakeEndpoint(answer)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(fake.__aenter__(), loop).result(30)
        yield fake
    finally:
        asyncio.run_coroutine_threadsafe(fake.__aexit__(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def files(tmp_path):
    problems = {str(number): {**OFFICIAL, "question": f"Question {number}?"} for number in range(1, 7)}
    problems["2"]["image"] = "image.png"
    write(tmp_path / "model.json", {"outputs": MODEL, "results": {}})
    write(tmp_path / "llm.json", {"outputs": LLM, "results": {}})
    return BenchFiles(write(tmp_path / "problems.json", problems))


def combine(tmp_path, files, rule, asking=None, llm="llm.json", out="out.json"):
    llm_file = tmp_path / llm if llm else None
    lines = list(run_ensemble(rule, tmp_path / "model.json", llm_file, files, tmp_path / out, asking))
    return lines, json.loads((tmp_path / out).read_text(encoding="utf-8"))


def options(tmp_path, url, **settings):
    return AskOptions(model="stub", base_url=url, ledger=tmp_path / "ledger.sqlite", **settings)


def says(text):
    async def answer(number, body):
        return reply(body, text)

    return answer


def test_complement_takes_the_model_where_the_llm_fails(tmp_path, files):
    lines, content = combine(tmp_path, files, "complement")
    assert content["decisions"] == {"1": "llm", "2": "llm", "3": "model", "4": "llm", "5": "model"}
    assert content["results"] == {"1": 0, "2": 0, "3": 0, "4": 1, "5": 2}
    assert content["outputs"]["3"] == MODEL["3"] and content["outputs"]["4"] == "B"
    assert lines[:3] == [
        f"{tmp_path / 'out.json'}: 5 of 6 questions decided",
        "decided by llm: 3",
        "decided by model: 2",
    ]
    noted = [json.loads(line) for line in (tmp_path / "out.set_aside.jsonl").read_text().splitlines()]
    assert [(row["place"], row["reason"]) for row in noted] == [
        (f"{tmp_path / 'model.json'}: 4", "the model has no answer"),
        (f"{tmp_path / 'model.json'}: 6", "the model has no answer"),
        (f"{tmp_path / 'llm.json'}: 6", "the LLM has no answer"),
    ]
    assert any(line.startswith("noted: 2 x the model has no answer") for line in lines)


def test_what_is_written_is_scored(tmp_path, files):
    combine(tmp_path, files, "complement")
    questions, joined, outcomes = scored(files, tmp_path / "out.json")
    assert [(o.id, o.right) for o in outcomes] == [
        ("1", True), ("2", True), ("3", True), ("4", False), ("5", False),
    ]  # fmt: skip
    assert [q.id for q in joined.missing] == ["6"] and not questions.whole
    stored = BenchFiles(files.data, stored_indices=True)
    assert [o.read for o in scored(stored, tmp_path / "out.json")[2]] == [o.read for o in outcomes]


def test_an_answer_that_nobody_can_read_stays_wrong(tmp_path, files):
    write(tmp_path / "model.json", {"outputs": {"1": "Hm."}})
    write(tmp_path / "llm.json", {"outputs": {"1": "", "2": "Who knows."}})
    _, content = combine(tmp_path, files, "complement")
    assert content["decisions"] == {"1": "nobody", "2": "nobody"} and content["results"] == {}
    assert content["outputs"] == {"1": "Hm.", "2": "Who knows."}


def test_the_judge_is_asked_where_the_two_differ(tmp_path, files):
    with endpoint(says("Birds are birds.\nThe answer is C.")) as fake:
        lines, content = combine(tmp_path, files, "judge", options(tmp_path, fake.url))
    # 1: the same letter; 4 and 5: one of the two wrote nothing.
    assert content["decisions"] == {"1": "both", "2": "judge", "3": "judge", "4": "llm", "5": "model"}
    assert content["results"] == {"1": 0, "2": 2, "3": 2, "4": 1, "5": 2}
    assert content["outputs"]["2"] == "Birds are birds.\nThe answer is C."
    asked = {body["messages"][1]["content"]: body for body in fake.bodies}
    assert len(asked) == 2 and "decided by judge: 2" in lines
    second, third = sorted(asked)
    for text, number, by in ((second, 2, "was shown the picture"), (third, 3, "the question has no picture")):
        assert f"Question {number}?" in text and "(C) a cat" in text and by in text
        assert text.index(LLM[str(number)]) < text.index(MODEL[str(number)])
    assert all(body["temperature"] == 0 for body in fake.bodies)
    assert content["made"]["judge"]["model"] == "stub" and len(content["made"]["judge"]["prompt"]) == 64


def test_braces_in_answers_are_only_text(tmp_path, files):
    write(tmp_path / "llm.json", {"outputs": {"2": "{model} {0} {question}. The answer is A."}})
    with endpoint(says("B")) as fake:
        combine(tmp_path, files, "judge", options(tmp_path, fake.url))
    assert "{model} {0} {question}. The answer is A." in fake.asked[0]


@pytest.mark.parametrize("text", ["Both are fine.", "The answer is A. The answer is B.", "The answer is F."])
def test_where_the_judge_cannot_be_read_it_is_as_complement(tmp_path, files, text):
    with endpoint(says(text)) as fake:
        lines, content = combine(tmp_path, files, "judge", options(tmp_path, fake.url))
    assert content["decisions"] == {"1": "both", "2": "llm", "3": "model", "4": "llm", "5": "model"}
    assert any(
        line.startswith("noted: 2 x the judge's reply cannot be read; as complement") for line in lines
    )


def test_what_was_paid_for_is_not_asked_again(tmp_path, files):
    with endpoint(says("A")) as fake:
        _, first = combine(tmp_path, files, "judge", options(tmp_path, fake.url))
        _, second = combine(tmp_path, files, "judge", options(tmp_path, fake.url))
        assert len(fake.bodies) == 2 and first == second
        with pytest.raises(VistuneError, match="is of another run"):
            combine(tmp_path, files, "judge", options(tmp_path, fake.url, param=["temperature=1"]))
        assert len(fake.bodies) == 2


def test_a_refused_request_leaves_its_question_open_until_the_next_run(tmp_path, files):
    refusing = True

    async def answer(number, body):
        if refusing and "Question 3?" in body["messages"][1]["content"]:
            return error(400, "not this one")
        return reply(body, "B")

    with endpoint(answer) as fake:
        lines, content = combine(tmp_path, files, "judge", options(tmp_path, fake.url))
        assert list(content["decisions"]) == ["1", "2", "4", "5"]
        assert "1 questions stay open; run the same command again to ask about them" in lines
        assert any(line.startswith("noted: 1 x no reply") for line in lines)
        refusing = False
        _, content = combine(tmp_path, files, "judge", options(tmp_path, fake.url))
    assert content["decisions"]["3"] == "judge"
    assert sum("Question 2?" in text for text in fake.asked) == 1


def test_an_endpoint_that_is_down_leaves_no_file_and_loses_nothing(tmp_path, files):
    async def answer(number, body):
        return reply(body, "B") if number == 0 else error(401, "no such key")

    with endpoint(answer) as fake:
        with pytest.raises(VistuneError):
            combine(tmp_path, files, "judge", options(tmp_path, fake.url, in_flight=1))
        assert not (tmp_path / "out.json").exists()
    with Ledger(tmp_path / "ledger.sqlite", read_only=True) as ledger:
        assert ledger.totals().done == 1


def test_the_llm_is_asked_for_its_own_answers_where_it_has_none(tmp_path, files):
    with endpoint(says("I think so.\nThe answer is C.")) as fake:
        lines, content = combine(tmp_path, files, "complement", options(tmp_path, fake.url), llm=None)
        assert content["results"] == dict.fromkeys("123456", 2) and lines[0].startswith("spent:")
        assert len(fake.bodies) == 6
        combine(tmp_path, files, "judge", options(tmp_path, fake.url), llm=None, out="judged.json")
    assert len(fake.bodies) == 6 + 3  # 1, 2 and 3 differ; 5 is the same; the model has no 4 and no 6
    roles = [message["role"] for message in fake.bodies[0]["messages"]]
    assert roles == ["system", "user", "assistant", "user", "assistant", "user"]
    assert fake.bodies[0]["messages"][-1]["content"].startswith("Question: Question ")


def test_the_examples_of_the_prompt_keep_its_rule():
    folder = Path(str(resources.files("vistune.prompts").joinpath("scienceqa")))
    examples = load_prompt("answer", folder).examples
    for context, text in examples:
        assert read_letter(text, context.count("\n(")).letter
        assert context.startswith("Question: ") and "\nContext: " in context and "\nOptions:\n(A) " in context
    assert len(examples) == 2  # as in the paper


def test_options_that_contradict_are_refused(tmp_path, files):
    asking = AskOptions(model="stub", base_url="http://localhost:1/v1")
    other = write(tmp_path / "other.json", {"outputs": {"77": "A"}})
    model, llm, out = tmp_path / "model.json", tmp_path / "llm.json", tmp_path / "out.json"
    stored = BenchFiles(files.data, stored_indices=True)
    for given, told in (
        (("vote", model, llm, files, out), "no such ensemble. Choose of complement, judge"),
        (("judge", model, llm, files, out), "--model"),
        (("complement", model, None, files, out), "--llm FILE, or name it with --model"),
        (("complement", model, llm, files, out, asking), "--model would be ignored"),
        (("complement", model, llm, stored, out), "--stored-indices would be ignored"),
        (("complement", model, llm, BenchFiles(), out), "--problems"),
        (("complement", other, llm, files, out), "answers none of the 6 questions"),
        (("complement", model, other, files, out), "answers none of the 6 questions"),
        (("complement", tmp_path / "no.json", llm, files, out), "cannot be read"),
    ):
        with pytest.raises(VistuneError, match=told):
            list(run_ensemble(*given))
        assert not out.exists()
    out.write_text("[1]", encoding="utf-8")
    with pytest.raises(VistuneError, match="is of another run"):
        list(run_ensemble("complement", model, llm, files, out))


def test_complement_of_the_published_predictions(published, tmp_path):
    """GPT-3's chains of thought in the LLM's place: 3,992 of its texts can be read."""
    files = BenchFiles(published / "test_problems.json")
    model, llm = (published / f"{name}_predictions.json" for name in ("llava_13b_v0", "gpt3_cot"))
    lines = list(run_ensemble("complement", model, llm, files, tmp_path / "out.json"))
    assert lines[1:] == ["decided by llm: 3,992", "decided by model: 249"]
    _, joined, outcomes = scored(files, tmp_path / "out.json")
    right = {o.id: o.right for o in outcomes}
    gpt3 = {o.id: o for o in scored(files, llm)[2]}
    llava = {o.id: o.right for o in scored(files, model)[2]}
    assert right == {name: llava[name] if gpt3[name].read is None else gpt3[name].right for name in right}
    assert not joined.missing and row_of(outcomes) != LLAVA
