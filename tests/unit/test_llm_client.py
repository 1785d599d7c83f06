"""The LLM client against an endpoint that misbehaves: patient, bounded, and it never pays twice."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from benchmarks.stub_llm import Faults, counts, served, written

from tests.fake_llm import FakeEndpoint, always_fine, ask_all, error, reply, request
from vistune.errors import VistuneError
from vistune.llm import client as client_module
from vistune.llm import ledger as ledger_module
from vistune.llm.budget import Budget, BudgetReachedError
from vistune.llm.client import Endpoint, EndpointError, LlmClient, RequestFailedError
from vistune.llm.ledger import Ledger
from vistune.llm.prices import Price
from vistune.llm.request import ChatReply

KEY = "sk-very-secret-0123456789"
PENNY = Price(0.0, 10_000.0)  # a cent for each token of a reply


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key, and retries that follow quickly."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client_module, "_FIRST_WAIT", 0.01)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def texts_of(results: list[ChatReply | BaseException]) -> list[str]:
    return [result.text if isinstance(result, ChatReply) else repr(result) for result in results]


# What goes out and comes in


def test_request_goes_out_whole_with_the_key_and_the_reply_comes_back(ledger: Path):
    async def run() -> None:
        async with FakeEndpoint(always_fine) as endpoint:
            with Ledger(ledger) as opened:
                client = LlmClient(Endpoint(endpoint.url), opened, Budget(None, None))
                got = await client.ask(request("one", temperature=0.5, seed=3))
                await client.close()
        assert got.text == "Reply to one." and not got.paid_before
        assert endpoint.bodies == [
            {
                "model": "stub",
                "messages": [
                    {"role": "system", "content": "Be brief."},
                    {"role": "user", "content": "one"},
                ],
                "temperature": 0.5,
                "seed": 3,
            }
        ]
        assert endpoint.keys == [KEY]

    asyncio.run(run())


def test_what_was_paid_for_is_never_asked_again_by_another_run(ledger: Path):
    first, endpoint = ask_all(always_fine, ledger, ["one", "two"])
    assert len(endpoint.bodies) == 2
    again, endpoint = ask_all(always_fine, ledger, ["one", "two", "three"])
    assert endpoint.asked == ["three"]
    assert texts_of(again)[:2] == texts_of(first)
    assert [got.paid_before for got in again if isinstance(got, ChatReply)] == [True, True, False]


def test_the_same_request_asked_by_many_at_once_is_made_once(ledger: Path):
    async def slowly(number: int, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.05)
        return reply(body, f"Reply {number}.")

    results, endpoint = ask_all(slowly, ledger, ["one"] * 5 + ["two"])
    assert sorted(endpoint.asked) == ["one", "two"]
    assert len(set(texts_of(results[:5]))) == 1


def test_the_same_request_asked_by_many_at_once_fails_for_all_of_them(ledger: Path):
    async def refuse(number: int, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.02)
        return error(400, "no")

    results, endpoint = ask_all(refuse, ledger, ["one"] * 3)
    assert len(endpoint.bodies) == 1
    assert [type(result) for result in results] == [RequestFailedError] * 3


@pytest.mark.parametrize("in_flight", [1, 4])
def test_never_more_requests_in_flight_than_allowed(ledger: Path, in_flight: int):
    async def slowly(number: int, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        return error(500) if number % 3 == 1 else reply(body)

    results, endpoint = ask_all(slowly, ledger, [str(n) for n in range(20)], in_flight=in_flight)
    assert set(texts_of(results)) == {"Fine."}
    assert endpoint.most_at_once == in_flight


# Faults that pass


def half(body: dict[str, Any]) -> web.Response:
    whole = reply(body).text
    assert whole is not None
    return web.Response(text=whole[: len(whole) // 2], content_type="application/json")


@pytest.mark.parametrize(
    "fault",
    [
        lambda body: error(500),
        lambda body: error(503),
        lambda body: error(429),
        lambda body: error(408),
        half,
        lambda body: web.Response(text="<html>Sign in</html>", content_type="text/html"),
        lambda body: web.Response(text=""),
        lambda body: web.Response(text="[" * 100_000, content_type="application/json"),
        lambda body: web.json_response({"error": "overloaded"}),
        lambda body: web.json_response({"choices": []}),
        lambda body: web.json_response({"choices": [{"message": {"content": 5}}]}),
    ],
    ids=["500", "503", "429", "408", "half", "html", "empty", "deep", "error", "no choice", "number"],
)
def test_fault_that_passes_is_followed_by_another_attempt(ledger: Path, fault):
    async def once(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return fault(body) if number == 0 else reply(body)

    results, endpoint = ask_all(once, ledger, ["one"])
    assert texts_of(results) == ["Fine."]
    assert len(endpoint.bodies) == 2 and endpoint.bodies[0] == endpoint.bodies[1]
    with Ledger(ledger) as opened:
        totals = opened.totals()
    assert (totals.done, totals.failed, totals.attempts) == (1, 0, 2)


def test_connection_that_breaks_off_is_followed_by_another_attempt(ledger: Path):
    async def once(number: int, body: dict[str, Any]) -> web.StreamResponse:
        if number == 0:
            raise asyncio.CancelledError  # the server drops the connection
        return reply(body)

    results, endpoint = ask_all(once, ledger, ["one"])
    assert texts_of(results) == ["Fine."]
    assert len(endpoint.bodies) == 2


def test_waits_at_least_as_long_as_the_endpoint_asks(ledger: Path):
    async def busy(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(429, **{"Retry-After": "0.4"}) if number == 0 else reply(body)

    results, endpoint = ask_all(busy, ledger, ["one"])
    assert texts_of(results) == ["Fine."]
    assert endpoint.times[1] - endpoint.times[0] >= 0.4


def test_waits_longer_each_time(ledger: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "_FIRST_WAIT", 0.08)

    async def down(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(500)

    _, endpoint = ask_all(down, ledger, ["one"], attempts=4)
    waits = [after - before for before, after in zip(endpoint.times, endpoint.times[1:], strict=False)]
    for wait, most in zip(waits, (0.08, 0.16, 0.32), strict=True):
        assert wait >= most / 2


def test_endpoint_that_asks_for_hours_ends_the_run_with_a_message(ledger: Path):
    async def tomorrow(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(429, "daily limit", **{"Retry-After": "36000"})

    results, endpoint = ask_all(tomorrow, ledger, ["one", "two"], in_flight=1)
    assert [type(result) for result in results] == [EndpointError] * 2
    assert "asks to wait for 600 minutes" in str(results[0]) and "daily limit" in str(results[0])
    assert len(endpoint.bodies) == 1


def test_request_without_an_answer_times_out(ledger: Path):
    async def hang(number: int, body: dict[str, Any]) -> web.StreamResponse:
        if number == 0:
            await asyncio.sleep(60)
        return reply(body)

    started = time.monotonic()
    results, endpoint = ask_all(hang, ledger, ["one"], timeout=0.5)
    assert texts_of(results) == ["Fine."] and len(endpoint.bodies) == 2
    assert time.monotonic() - started >= 0.5


def test_answer_that_trickles_times_out_too(ledger: Path):
    class Trickle(web.StreamResponse):
        async def prepare(self, request: web.BaseRequest) -> Any:
            await super().prepare(request)
            for _ in range(600):
                await self.write(b" ")
                await asyncio.sleep(0.05)

    async def trickle(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return Trickle()

    started = time.monotonic()
    results, _ = ask_all(trickle, ledger, ["one"], timeout=0.3, attempts=1)
    assert str(results[0]) == "1 attempts failed; the last: timed out"
    assert time.monotonic() - started < 25


def test_request_that_keeps_failing_is_given_up_and_leaves_the_others_alone(ledger: Path):
    async def partly(number: int, body: dict[str, Any]) -> web.StreamResponse:
        text = body["messages"][-1]["content"]
        return error(500, "cursed") if text == "3" else error(400, "unwanted") if text == "5" else reply(body)

    results, endpoint = ask_all(partly, ledger, [str(n) for n in range(8)], attempts=3)
    assert [number for number, got in enumerate(results) if isinstance(got, ChatReply)] == [0, 1, 2, 4, 6, 7]
    assert "3 attempts failed; the last: HTTP 500" in str(results[3]) and "cursed" in str(results[3])
    assert "refused by the endpoint: HTTP 400" in str(results[5]) and "unwanted" in str(results[5])
    assert (endpoint.asked.count("3"), endpoint.asked.count("5")) == (3, 1)
    with Ledger(ledger) as opened:
        assert (opened.totals().done, opened.totals().failed) == (6, 2)


def test_what_failed_for_good_is_asked_again_by_the_next_run(ledger: Path):
    async def down(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(500)

    ask_all(down, ledger, ["one"], attempts=2)
    results, _ = ask_all(always_fine, ledger, ["one"])
    assert texts_of(results) == ["Reply to one."]
    with Ledger(ledger) as opened:
        totals = opened.totals()
    assert (totals.done, totals.failed, totals.attempts) == (1, 0, 3)


def test_a_storm_of_faults_loses_nothing_and_pays_nothing_twice(ledger: Path):
    storm = Faults(too_many=0.1, server_error=0.1, truncated=0.1, dropped=0.1, refusal=0.1)
    asked = [str(number) for number in range(60)]

    async def run(url: str) -> list[ChatReply]:
        with Ledger(ledger) as opened:
            client = LlmClient(Endpoint(url, in_flight=8), opened, Budget(None, None))
            try:
                return await asyncio.gather(*(client.ask(request(text)) for text in asked))
            finally:
                await client.close()

    with served(0.001, storm) as url:
        replies = asyncio.run(run(url))
        given = counts(url)
    told = {written([{"content": "Be brief."}, {"content": text}]): text for text in asked}
    refusals = [got.text for got in replies if got.text not in told]
    assert set(refusals) == {"I'm sorry, I can't help."}
    assert [told[got.text] for got in replies if got.text in told] == [
        text for text, got in zip(asked, replies, strict=True) if got.text in told
    ]
    assert given["requests"] > given["replies"] == 60 and given["paid_twice"] == 0


# Faults that end the run


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (error(401, "bad key"), "the key was refused .*bad key.*OPENAI_API_KEY"),
        (error(403, "not here"), "the key was refused .*not here"),
        (error(404, "no model"), "no such endpoint or model .*no model.*--base-url and --model"),
        (error(429, "pay", "insufficient_quota"), "no credit left"),
    ],
    ids=["401", "403", "404", "quota"],
)
def test_what_no_retry_can_mend_ends_the_run_at_once(ledger: Path, fault: web.Response, message: str):
    async def refuse(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(body=fault.body, status=fault.status, content_type="application/json")

    results, endpoint = ask_all(refuse, ledger, [str(n) for n in range(30)], in_flight=3)
    assert [type(result) for result in results] == [EndpointError] * 30
    with pytest.raises(EndpointError, match=message):
        raise results[0]  # type: ignore[misc]
    assert len(endpoint.bodies) <= 3


def test_endpoint_that_is_not_there_is_given_up_soon(ledger: Path):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{found.getsockname()[1]}/v1"

    async def run() -> list[BaseException | ChatReply]:
        with Ledger(ledger) as opened:
            client = LlmClient(Endpoint(url, patience=2.0, in_flight=4), opened, Budget(None, None))
            asking = (client.ask(request(str(n))) for n in range(200))
            try:
                return await asyncio.gather(*asking, return_exceptions=True)
            finally:
                await client.close()

    started = time.monotonic()
    results = asyncio.run(run())
    assert time.monotonic() - started < 30  # all of their attempts would take minutes
    assert {type(result) for result in results} == {EndpointError}
    assert f"{url}: " in str(results[0]) and "failures in a row" in str(results[0])
    assert "no connection" in str(results[0]) and "Check that it is up" in str(results[0])
    with Ledger(ledger) as opened:
        assert 8 <= opened.totals().attempts < 400  # the first of each, and hardly a second


def test_endpoint_that_answers_html_is_given_up_with_what_it_said(ledger: Path):
    async def portal(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return web.Response(text="<html>Please sign in</html>", content_type="text/html")

    results, endpoint = ask_all(portal, ledger, [str(n) for n in range(100)], patience=0.5, in_flight=4)
    assert {type(result) for result in results} == {EndpointError}
    assert "HTML" in str(results[0]) and "Please sign in" in str(results[0]) and "/v1" in str(results[0])
    assert len(endpoint.bodies) < 200  # hardly a second attempt of any, where eight were allowed


def test_endpoint_that_goes_down_halfway_ends_the_run_and_keeps_what_it_gave(ledger: Path):
    async def until_ten(number: int, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.002)
        return reply(body) if number < 10 else error(502, "bad gateway")

    results, endpoint = ask_all(until_ten, ledger, [str(n) for n in range(40)], patience=0.3, in_flight=2)
    assert [type(got) for got in results].count(ChatReply) == 10
    assert any(isinstance(got, EndpointError) and "bad gateway" in str(got) for got in results)
    assert len(endpoint.bodies) < 200
    again, endpoint = ask_all(always_fine, ledger, [str(n) for n in range(40)])
    assert len(endpoint.bodies) == 30 and all(isinstance(got, ChatReply) for got in again)


def test_endpoint_that_always_wants_less_is_given_up_later_than_one_that_is_down(ledger: Path):
    async def busy(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(429, "slow down")

    results, endpoint = ask_all(busy, ledger, [str(n) for n in range(200)], patience=1.0, in_flight=4)
    assert isinstance(results[-1], EndpointError) and "slow down" in str(results[-1])
    # One that is down gets a tenth of the patience. The client counts from the first answer to the last, the
    # endpoint from the first request to the last: near the whole second, not to the millisecond.
    assert endpoint.times[-1] - endpoint.times[0] >= 0.5


def test_endpoint_that_refuses_whatever_it_is_asked_ends_the_run(ledger: Path):
    async def refuse(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(400, "unsupported parameter: seed")

    results, endpoint = ask_all(refuse, ledger, [str(n) for n in range(50)], in_flight=2)
    assert len(endpoint.bodies) <= 9
    assert "refused the first 8 requests" in str(results[-1]) and "seed" in str(results[-1])
    assert "--model and --param" in str(results[-1])


def test_the_end_of_a_run_wakes_those_who_wait_for_a_retry(ledger: Path):
    async def busy_then_closed(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(429, **{"Retry-After": "600"}) if number == 0 else error(401)

    started = time.monotonic()
    results, _ = ask_all(busy_then_closed, ledger, ["one", "two", "three"], in_flight=2)
    assert {type(result) for result in results} == {EndpointError}
    assert time.monotonic() - started < 30


def test_wrong_key_is_told_at_once_though_the_rate_is_one_a_minute(ledger: Path):
    async def closed(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(401)

    started = time.monotonic()
    results, endpoint = ask_all(closed, ledger, ["one", "two", "three"], requests_per_minute=1)
    assert {type(result) for result in results} == {EndpointError} and len(endpoint.bodies) == 1
    assert time.monotonic() - started < 30


# Rates


def starts(ledger: Path) -> list[float]:
    """When each request was made, in seconds after the first."""
    with sqlite3.connect(ledger) as database:
        times = [row[0] for row in database.execute("SELECT created FROM requests ORDER BY created")]
    return [at - times[0] for at in times]


def test_requests_are_no_more_frequent_than_allowed(ledger: Path):
    ask_all(always_fine, ledger, [str(n) for n in range(6)], requests_per_minute=600)
    for number, start in enumerate(starts(ledger)):
        assert start > 0.1 * number - 0.02


def test_tokens_are_no_more_frequent_than_allowed(ledger: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(client_module, "_MINUTE", 1.0)
    # A request may take 3 + 1024 tokens, and 2054 are allowed in a second: two at once, then two a second.
    ask_all(always_fine, ledger, [f"{n:03}" for n in range(5)], tokens_per_minute=2054)
    for number, start in enumerate(starts(ledger)):
        assert start > 0.5 * (number - 1) - 0.02


# Money


def cents(number_of_tokens: int) -> Any:
    async def answer(number: int, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.01)
        usage = {"prompt_tokens": 5, "completion_tokens": number_of_tokens}
        content = {"choices": [{"message": {"content": "Fine."}, "finish_reason": "stop"}], "usage": usage}
        return web.json_response(content)

    return answer


def test_the_limit_is_never_passed_and_what_was_in_flight_is_kept(ledger: Path):
    # A request can cost 1024 cents; each does cost 100.
    results, endpoint = ask_all(cents(100), ledger, [str(n) for n in range(40)], PENNY, 31.0, in_flight=4)
    kept = [got for got in results if isinstance(got, ChatReply)]
    # The 21st finds 20 dollars spent, and could pass 31 only with the 1024 cents that it may cost itself.
    assert len(kept) == len(endpoint.bodies) == 21
    assert {type(got) for got in results} == {ChatReply, BudgetReachedError}
    (message,) = {str(got) for got in results if isinstance(got, BudgetReachedError)}
    assert "stopped at $21.00" in message and "--max-cost 31" in message
    with Ledger(ledger) as opened:
        assert opened.totals().done == 21 and opened.totals().cost == pytest.approx(21.0)


def test_a_limit_below_one_request_asks_nothing(ledger: Path):
    results, endpoint = ask_all(cents(1), ledger, ["one"], PENNY, 10.0)
    assert isinstance(results[0], BudgetReachedError) and endpoint.bodies == []


def test_what_was_paid_before_costs_nothing_again(ledger: Path):
    ask_all(cents(100), ledger, ["one", "two"], PENNY, 100.0)
    results, endpoint = ask_all(cents(100), ledger, ["one", "two"], PENNY, 0.0)
    assert texts_of(results) == ["Fine.", "Fine."] and endpoint.bodies == []


def test_reply_without_a_count_of_tokens_counts_as_the_most_that_it_can_cost(ledger: Path):
    async def silent(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"choices": [{"message": {"content": "Fine."}}], "usage": {"a": None}})

    results, endpoint = ask_all(silent, ledger, [str(n) for n in range(9)], PENNY, 31.0, in_flight=1)
    assert len(endpoint.bodies) == 3  # of 1024 cents each
    assert [type(got) for got in results].count(BudgetReachedError) == 6


def test_failed_attempts_give_back_what_they_held(ledger: Path):
    async def shaky(number: int, body: dict[str, Any]) -> web.StreamResponse:
        return error(500) if number % 2 == 0 else await cents(100)(number, body)

    results, _ = ask_all(shaky, ledger, [str(n) for n in range(9)], PENNY, 20.0, in_flight=3)
    assert set(texts_of(results)) == {"Fine."}


@pytest.mark.parametrize("most", [None, 11.0])
def test_a_ledger_that_cannot_be_written_ends_the_run_instead_of_asking_on(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, most: float | None
):
    written_rows = 0
    keep = ledger_module.Ledger._write

    def full_after_five(self: Ledger, statement: str, values: tuple[object, ...]) -> bool:
        nonlocal written_rows
        written_rows += 1
        if written_rows > 5:
            raise VistuneError("full")
        return keep(self, statement, values)

    monkeypatch.setattr(ledger_module.Ledger, "_write", full_after_five)
    results, endpoint = ask_all(cents(1), ledger, [str(n) for n in range(20)], PENNY, most, in_flight=2)
    assert len(endpoint.bodies) <= 4
    assert [type(got) for got in results].count(VistuneError) >= 18
    assert {str(got) for got in results if not isinstance(got, ChatReply)} == {"full"}


# The key


@pytest.mark.parametrize("status", [400, 401, 429, 500, 200])
def test_the_key_is_in_no_message_and_not_in_the_ledger(ledger: Path, status: int):
    async def parrot(number: int, body: dict[str, Any]) -> web.StreamResponse:
        if status == 200:
            return web.Response(text=f"<html>{KEY}</html>", content_type="text/html")
        return error(status, f"what is {KEY}?")

    results, endpoint = ask_all(parrot, ledger, ["one"], attempts=2)
    assert endpoint.keys[0] == KEY
    assert "[key]" in str(results[0]) and "secret" not in str(results[0])
    for path in ledger.parent.iterdir():
        assert b"secret" not in path.read_bytes(), path


def test_without_a_key_openai_is_refused_and_an_endpoint_of_ones_own_is_not(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY")
    with Ledger(ledger) as opened, pytest.raises(VistuneError, match="OPENAI_API_KEY"):
        LlmClient(Endpoint(), opened, Budget(None, None))
    results, _ = ask_all(always_fine, ledger, ["one"])
    assert texts_of(results) == ["Reply to one."]


def test_key_may_end_in_a_newline_and_a_key_that_is_none_is_refused_unseen(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    _, endpoint = ask_all(always_fine, ledger, ["one"])
    assert endpoint.keys == [KEY]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sécret")
    with pytest.raises(VistuneError, match="OPENAI_API_KEY holds characters") as caught:
        ask_all(always_fine, ledger, ["two"])
    assert "cret" not in str(caught.value)


def test_endpoint_is_the_one_that_is_named_whatever_the_environment_says(
    ledger: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with Ledger(ledger) as opened:
        library = LlmClient(Endpoint(), opened, Budget(None, None))._library()
    assert str(library.base_url) == "https://api.openai.com/v1/"
