"""Prices, estimates of tokens, and a limit on what a run may cost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.fake_llm import request
from vistune.errors import VistuneError
from vistune.llm.budget import Budget, BudgetReachedError, estimated_tokens, worst_usage
from vistune.llm.prices import Price, find_price
from vistune.llm.request import Usage

TABLE = (
    "batch_discount: 0.25\nmodels:\n  mine: {prompt: 2, completion: 8}\n  free: {prompt: 0, completion: 0}\n"
)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "prices.yaml"
    path.write_text(TABLE, encoding="utf-8")
    return path


def test_price_is_for_a_million_tokens_of_each_kind():
    assert Price(2.0, 8.0).of(Usage(1_000_000, 0)) == 2.0
    assert Price(2.0, 8.0).of(Usage(500_000, 250_000)) == 3.0


def test_prices_come_from_the_table_and_those_of_batches_are_lower(table: Path):
    assert find_price("mine", table) == Price(2.0, 8.0)
    assert find_price("mine", table, batch=True) == Price(0.5, 2.0)
    assert find_price("free", table) == Price(0.0, 0.0)
    assert find_price("unknown", table) is None


def test_shipped_table_has_prices_and_batches_cost_half():
    live, batch = find_price("gpt-4o-mini", None), find_price("gpt-4o-mini", None, batch=True)
    assert live is not None and batch is not None
    assert 0 < live.prompt < live.completion
    assert (batch.prompt, batch.completion) == (live.prompt / 2, live.completion / 2)


@pytest.mark.parametrize(
    "content",
    [
        "", "models", "models: 5", "models: {mine: 5}", "models: {mine: {prompt: 2}}", "models: [", "\x00",
        "models: {mine: {prompt: cheap, completion: 1}}", "models: {mine: {prompt: -1, completion: 1}}",
        "models: {mine: {prompt: .nan, completion: 1}}", "models: {mine: {prompt: .inf, completion: 1}}",
    ],
)  # fmt: skip
def test_what_is_no_price_table_is_refused_with_what_was_expected(tmp_path: Path, content: str):
    path = tmp_path / "prices.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(
        VistuneError, match=r"(?s)prices\.yaml: not a price table .*dollars per million tokens"
    ):
        find_price("mine", path)


def test_missing_price_table_is_refused(tmp_path: Path):
    with pytest.raises(VistuneError, match=r"none\.yaml: cannot be read \(No such file"):
        find_price("mine", tmp_path / "none.yaml")


def test_tokens_are_estimated_from_characters_and_the_longest_reply_from_the_parameters():
    assert [estimated_tokens(count) for count in (0, 1, 4, 5, 400)] == [0, 1, 1, 2, 100]
    asked = request("x" * 391)  # and 9 characters of the system message
    assert asked.characters == 400
    assert worst_usage(asked) == Usage(100, 1024)
    assert worst_usage(request("x" * 391, max_tokens=50)) == Usage(100, 50)
    assert worst_usage(request("x" * 391, max_completion_tokens=70)) == Usage(100, 70)


# A dollar for each token of a reply; requests of at most ten tokens

PRICE = Price(0.0, 1e6)
TEN = request("x", max_tokens=10)


def test_requests_in_flight_hold_back_the_most_that_they_can_cost():
    async def run() -> None:
        budget = Budget(PRICE, 25.0)
        first, second = await budget.hold(TEN), await budget.hold(TEN)
        assert (first, second) == (10.0, 10.0)
        third = asyncio.create_task(budget.hold(TEN))
        await asyncio.sleep(0.01)
        assert not third.done()  # 20 of 25 are held
        await budget.settle(first, 5.0)
        assert await asyncio.wait_for(third, 5) == 10.0  # 5 spent, 20 held: 25 at the most
        assert budget.spent == 5.0

    asyncio.run(run())


def test_those_who_wait_are_told_when_nothing_more_can_come_back():
    async def run() -> None:
        budget = Budget(PRICE, 15.0)
        held = await budget.hold(TEN)
        waiting = [asyncio.create_task(budget.hold(TEN)) for _ in range(3)]
        await asyncio.sleep(0.01)
        await budget.settle(held, 10.0)
        results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert [type(result) for result in results] == [BudgetReachedError] * 3
        assert "$10.00" in str(results[0])

    asyncio.run(run())


def test_request_that_fails_costs_nothing():
    async def run() -> None:
        budget = Budget(PRICE, 10.0)
        for _ in range(3):
            await budget.settle(await budget.hold(TEN), None)
        assert budget.spent == 0.0

    asyncio.run(run())


def test_without_a_limit_spending_is_counted_all_the_same():
    async def run() -> None:
        budget = Budget(PRICE, None)
        for _ in range(3):
            await budget.settle(await budget.hold(TEN), budget.cost(TEN, Usage(5, 4)))
        assert budget.spent == 12.0

    asyncio.run(run())


def test_cost_is_unknown_without_a_price_and_the_most_without_a_count_of_tokens():
    assert Budget(None, None).cost(TEN, Usage(5, 4)) is None
    assert Budget(PRICE, None).cost(TEN, Usage(5, 4)) == 4.0
    assert Budget(PRICE, None).cost(TEN, Usage(0, 0)) == 10.0
