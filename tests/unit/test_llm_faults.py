"""What an error of the endpoint means, what a body says, and when an endpoint counts as down."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import Any

import httpx
import openai
import pytest

from vistune.llm import breaker as breaker_module
from vistune.llm.breaker import Breaker
from vistune.llm.faults import EndpointError, PassingFault, RequestRefusedError, retry_after, to_fault
from vistune.llm.request import BadReplyError, Usage, read_reply

URL = "http://llm/v1"


def status_error(status: int, code: str | None = None, **headers: str) -> openai.APIStatusError:
    response = httpx.Response(status, headers=headers, request=httpx.Request("POST", URL))
    return openai.APIStatusError("oops sk-1", response=response, body={"code": code})


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RequestRefusedError),
        (401, EndpointError),
        (403, EndpointError),
        (404, EndpointError),
        (408, PassingFault),
        (409, PassingFault),
        (413, RequestRefusedError),
        (422, RequestRefusedError),
        (429, PassingFault),
        (500, PassingFault),
        (503, PassingFault),
        (529, PassingFault),
    ],
)
def test_status_decides_what_follows(status: int, kind: type):
    fault = to_fault(status_error(status), URL)
    assert type(fault) is kind and str(status) in str(fault)


def test_too_many_requests_are_a_sign_of_life_and_an_error_of_the_server_is_none():
    busy, broken = to_fault(status_error(429), URL), to_fault(status_error(500), URL)
    assert isinstance(busy, PassingFault) and isinstance(broken, PassingFault)
    assert (busy.alive, broken.alive) == (True, False)


def test_account_without_credit_ends_the_run_though_its_status_is_that_of_haste():
    fault = to_fault(status_error(429, "insufficient_quota"), URL)
    assert isinstance(fault, EndpointError) and "no credit" in str(fault)


def test_wait_is_taken_from_the_header_and_one_of_hours_ends_the_run():
    short = to_fault(status_error(503, **{"Retry-After": "7"}), URL)
    assert isinstance(short, PassingFault) and short.wait == 7.0
    assert isinstance(to_fault(status_error(503, **{"Retry-After": "7200"}), URL), EndpointError)


def test_key_is_blotted_out():
    for error in (
        status_error(400),
        status_error(401),
        BadReplyError("HTML: sk-1"),
        openai.OpenAIError("sk-1"),
    ):
        assert "sk-1" not in str(to_fault(error, URL, "sk-1"))
    assert "oops" in str(to_fault(status_error(400), URL, ""))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("3", 3), ("0.5", 0.5), ("-4", 0), ("nan", 0), ("soon", 0), ("Mon, 99 Foo", 0)],
)
def test_retry_after_in_seconds_and_what_cannot_be_read_is_no_wait(header: str | None, seconds: float):
    assert retry_after(header) == seconds


def test_retry_after_as_a_date():
    assert 28 < retry_after(formatdate(time.time() + 30, usegmt=True)) <= 30
    assert retry_after(formatdate(time.time() - 30, usegmt=True)) == 0


# Bodies


def body(message: Any, finish: str | None = "stop", usage: Any = None) -> str:
    return json.dumps({"choices": [{"message": message, "finish_reason": finish}], "usage": usage})


def test_body_of_a_reply_is_read():
    reply = read_reply(body({"content": "Hi."}, usage={"prompt_tokens": 3, "completion_tokens": 2}))
    assert (reply.text, reply.cut, reply.refused, reply.usage) == ("Hi.", False, False, Usage(3, 2))


def test_reply_that_was_cut_off_or_refused_says_so():
    assert read_reply(body({"content": "Hi"}, "length")).cut
    assert read_reply(body({"content": None, "refusal": "No."})).refused
    assert read_reply(body({"content": ""}, "content_filter")).refused


@pytest.mark.parametrize("usage", [None, 5, [], {"prompt_tokens": "x"}, {"prompt_tokens": -3}, {"a": 1}])
def test_usage_that_is_none_does_not_spoil_the_reply(usage: Any):
    assert read_reply(body({"content": "Hi."}, usage=usage)).usage == Usage(0, 0)


def test_half_a_surrogate_pair_becomes_a_character_that_a_file_can_hold():
    assert read_reply(body({"content": "A \ud83d dog \ud83d\ude00"})).text == "A \ufffd dog \U0001f600"


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("<!doctype html><p>Hi", "HTML"),
        ("", "broken JSON"),
        ('{"choices": [{"mess', "broken JSON"),
        ("9" * 5000, "broken JSON"),
        ("[" * 100_000, "broken JSON"),
        ("null", "not a chat completion"),
        ("[]", "not a chat completion"),
        ('{"choices": []}', "not a chat completion"),
        ('{"choices": [null]}', "not a chat completion"),
        ('{"error": {"message": "x"}}', "not a chat completion"),
        (body([1]), "not a chat completion"),
        (body({"content": ["a"]}), "not a chat completion"),
    ],
)
def test_body_that_is_no_reply_is_named(content: str, what: str):
    with pytest.raises(BadReplyError, match=what):
        read_reply(content)


# The breaker, by a clock that is set by hand


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(breaker_module, "time", clock)
    return clock


def fail(breaker: Breaker, clock: Clock, count: int, seconds: float, alive: bool = False) -> None:
    for _ in range(count):
        breaker.failure("HTTP 500", alive)
        clock.now += seconds


def test_few_failures_over_a_long_time_are_no_reason(clock: Clock):
    fail(Breaker(URL, 60), clock, 7, 1000)


def test_many_failures_in_a_moment_are_no_reason(clock: Clock):
    fail(Breaker(URL, 60), clock, 1000, 0.001)


def test_eight_failures_and_a_tenth_of_the_patience_end_a_run_that_never_had_an_answer(clock: Clock):
    breaker = Breaker(URL, 60)
    fail(breaker, clock, 7, 1)
    with pytest.raises(
        EndpointError, match=r"http://llm/v1: 8 failures in a row over 7 s; the last: HTTP 500"
    ):
        breaker.failure("HTTP 500")


def test_whole_patience_is_had_with_an_endpoint_that_did_answer(clock: Clock):
    breaker = Breaker(URL, 60)
    breaker.success()
    fail(breaker, clock, 59, 1)
    clock.now += 2
    with pytest.raises(EndpointError, match="60 failures in a row over 61 s"):
        breaker.failure("HTTP 500")


def test_success_begins_the_count_anew(clock: Clock):
    breaker = Breaker(URL, 60)
    for _ in range(20):
        breaker.success()
        fail(breaker, clock, 50, 1)


def test_endpoint_that_wants_less_gets_ten_times_the_patience(clock: Clock):
    breaker = Breaker(URL, 60)
    breaker.success()
    fail(breaker, clock, 599, 1, alive=True)
    fail(breaker, clock, 7, 0)  # the few that are worse do not end it
    clock.now += 2
    with pytest.raises(EndpointError, match="600 failures in a row"):
        breaker.failure("HTTP 429", alive=True)


def test_refusals_end_a_run_only_where_nothing_was_ever_answered():
    breaker = Breaker(URL, 60)
    for _ in range(7):
        breaker.refusal("HTTP 400")
    with pytest.raises(EndpointError, match="refused the first 8 requests; the last: HTTP 400"):
        breaker.refusal("HTTP 400")
    breaker = Breaker(URL, 60)
    breaker.success()
    for _ in range(100):
        breaker.refusal("HTTP 400")


def test_status_is_told_once():
    response = httpx.Response(500, request=httpx.Request("POST", URL))
    for said, told in (
        ("Error code: 500 - {'error': 'oops'}", "HTTP 500: {'error': 'oops'}"),
        ("Error code: 500", "HTTP 500"),
    ):
        assert str(to_fault(openai.InternalServerError(said, response=response, body=None), URL)) == told
