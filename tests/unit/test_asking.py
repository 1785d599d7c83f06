"""Many requests at once: the ledger, what fails, what stops a run, and parameters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.fake_judge import in_thread
from tests.fake_llm import always_fine, error, reply, request
from vistune.errors import VistuneError
from vistune.llm.asking import NO_REPLY, ask_all, parameters, seeded
from vistune.llm.options import AskOptions
from vistune.llm.request import ChatReply, ChatRequest

PRICES = "models:\n  stub: {prompt: 0, completion: 1000000}\n"  # a dollar for each token of a reply
REQUESTS = {f"name {n}": request(f"text {n}", max_tokens=10) for n in range(12)}


def options(url: str, folder: Path, **given: Any) -> AskOptions:
    return AskOptions(**{"model": "stub", "base_url": url, "ledger": folder / "ledger.sqlite", **given})


def test_replies_come_in_the_requests_order_and_are_not_asked_twice(tmp_path: Path):
    with in_thread(always_fine) as endpoint:
        asked = ask_all(REQUESTS, options(endpoint.url, tmp_path, in_flight=3), "asking")
        assert list(asked.replies) == list(REQUESTS) and not asked.problems and asked.stopped is None
        assert asked.replies["name 7"].text == "Reply to text 7." and not asked.replies["name 7"].paid_before
        assert len(endpoint.bodies) == 12 and endpoint.most_at_once <= 3
        again = ask_all(REQUESTS, options(endpoint.url, tmp_path), "asking")
        assert len(endpoint.bodies) == 12 and all(reply.paid_before for reply in again.replies.values())
    assert asked.spent.startswith("spent: unknown")


def test_request_that_is_refused_is_told_and_the_others_go_on(tmp_path: Path):
    async def answer(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(400, "too odd") if body["messages"][-1]["content"] == "text 3" else reply(body)

    with in_thread(answer) as endpoint:
        asked = ask_all(REQUESTS, options(endpoint.url, tmp_path), "asking")
    assert list(asked.replies) == [name for name in REQUESTS if name != "name 3"]
    (problem,) = asked.problems
    assert (problem.place, problem.reason) == ("name 3", NO_REPLY) and "too odd" in problem.detail
    assert asked.stopped is None


def test_fatal_error_stops_the_run_and_keeps_what_the_ledger_holds(tmp_path: Path):
    """The last three were paid for before; they come although the first new request is fatal."""
    some = dict(list(REQUESTS.items())[-3:])

    async def locked(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(401, "no")

    with in_thread(always_fine) as endpoint:
        ask_all(some, options(endpoint.url, tmp_path), "asking")
    with in_thread(locked) as endpoint:
        asked = ask_all(REQUESTS, options(endpoint.url, tmp_path, in_flight=1), "asking")
        assert len(endpoint.bodies) <= 2
    assert list(asked.replies) == list(some) and not asked.problems
    assert asked.stopped is not None and "the key was refused" in str(asked.stopped)


def test_limit_stops_before_it_is_passed_and_a_higher_one_goes_on(tmp_path: Path):
    (tmp_path / "prices.yaml").write_text(PRICES)
    given = {"prices": tmp_path / "prices.yaml", "in_flight": 2}
    with in_thread(always_fine) as endpoint:
        asked = ask_all(REQUESTS, options(endpoint.url, tmp_path, max_cost=25, **given), "asking")
        spent = float(asked.spent.removeprefix("spent: $"))
        assert "pass --max-cost 25" in str(asked.stopped) and 0 < spent <= 25
        assert 0 < len(asked.replies) < 12
        whole = ask_all(REQUESTS, options(endpoint.url, tmp_path, max_cost=1000, **given), "asking")
        assert len(whole.replies) == 12 and whole.stopped is None and len(endpoint.bodies) == 12


def test_limit_without_a_price_is_refused(tmp_path: Path):
    with pytest.raises(VistuneError, match="--max-cost: no price is known for stub"):
        ask_all(REQUESTS, options("http://127.0.0.1:9/v1", tmp_path, max_cost=1), "asking")


def test_reply_that_cannot_be_used_is_asked_for_again_in_another_way(tmp_path: Path):
    seen: list[tuple[str, int]] = []

    def again(name: str, reply: ChatReply, asked: int) -> ChatRequest | None:
        seen.append((name, asked))
        return request(f"{name}, please") if name == "name 1" and asked < 3 else None

    requests = {name: REQUESTS[name] for name in ("name 0", "name 1")}
    with in_thread(always_fine) as endpoint:
        asked = ask_all(requests, options(endpoint.url, tmp_path, in_flight=1), "asking", again)
    assert sorted(seen) == [("name 0", 1), ("name 1", 1), ("name 1", 2), ("name 1", 3)]
    assert asked.replies["name 1"].text == "Reply to name 1, please."


def test_name_makes_the_seed_and_without_a_seed_the_ledger_tells_requests_apart():
    messages = REQUESTS["name 0"].messages
    one, same, other = (seeded("stub", messages, {"top_p": 1}, name) for name in ("run 1", "run 1", "run 2"))
    assert one.key == same.key != other.key and one.parameters["seed"] != other.parameters["seed"]
    unseeded = [seeded("stub", messages, {"seed": None}, name) for name in ("run 1", "run 2")]
    assert unseeded[0].body() == unseeded[1].body() and "seed" not in unseeded[0].body()
    assert unseeded[0].key != unseeded[1].key


def test_parameters_are_read_over_any_defaults():
    assert parameters(None, {"temperature": 0.2}) == {"temperature": 0.2}
    assert parameters(["temperature=null", "seed=null"], {"temperature": 0.2}) == {"seed": None}
    with pytest.raises(VistuneError, match="--param 'model=x'"):
        parameters(["model=x"], {})
