"""The Batch API's files: what is asked, what comes back, and nothing of it twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from benchmarks.stub_llm import completion

from tests.fake_llm import request
from vistune.errors import VistuneError
from vistune.llm import batch as batch_module
from vistune.llm.batch import BatchFolder
from vistune.llm.ledger import Ledger
from vistune.llm.prices import Price
from vistune.llm.request import ChatRequest

HALF = Price(0.0, 1e6)  # a dollar for each token of a reply
ASKED = [request("one", seed=1), request("two", seed=2), request("three", seed=3)]
ONE, TWO, THREE = ASKED


class Desk:
    """A ledger and a folder, and an endpoint that answers the files in it."""

    def __init__(self, folder: Path, ledger: Ledger) -> None:
        self.folder, self.ledger = folder / "batch", ledger

    def round(self, *wanted: ChatRequest) -> list[str]:
        """One run: read what is there, ask for what is missing."""
        batch = BatchFolder(self.folder, self.ledger, HALF)
        told = list(batch.read_results())
        missing = [asked for asked in wanted if self.ledger.reply(asked.key) is None]
        return [*told, *batch.write_requests(missing)]

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text(encoding="utf-8").splitlines()]

    def answer(
        self, requests: str, results: str, spoil: Callable[[int], dict | None] = lambda _: None
    ) -> None:
        """What the endpoint would return for a requests file; ``spoil`` changes a row."""
        lines = []
        for number, row in enumerate(self.rows(requests)):
            response = {"status_code": 200, "body": completion(row["body"], f"Reply {number}.")}
            result = {
                "id": f"{requests}/{number}",
                "custom_id": row["custom_id"],
                "response": response,
                "error": None,
            }
            lines.append(json.dumps({**result, **(spoil(number) or {})}) + "\n")
        (self.folder / results).write_text("".join(reversed(lines)), encoding="utf-8")

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def desk(tmp_path: Path):
    with Ledger(tmp_path / "ledger.sqlite") as ledger:
        yield Desk(tmp_path, ledger)


def down(_: int) -> dict[str, Any]:
    return {"response": {"status_code": 500, "body": {"error": {"message": "oops"}}}}


def test_requests_are_written_as_the_api_takes_them(desk: Desk):
    told = desk.round(*ASKED)
    assert desk.files() == ["requests-0001.jsonl"]
    assert desk.rows("requests-0001.jsonl") == [
        {"custom_id": asked.key, "method": "POST", "url": "/v1/chat/completions", "body": asked.body()}
        for asked in ASKED
    ]
    assert len(told) == 1 and "requests-0001.jsonl: 3 requests. Upload it" in told[0]


def test_results_in_any_order_reach_the_ledger_at_the_price_of_a_batch(desk: Desk):
    desk.round(*ASKED)
    desk.answer("requests-0001.jsonl", "results-anything.jsonl")
    assert desk.round(*ASKED) == [f"{desk.folder / 'results-anything.jsonl'}: 3 replies"]
    replies = [desk.ledger.reply(asked.key) for asked in ASKED]
    assert [reply.text if reply else None for reply in replies] == ["Reply 0.", "Reply 1.", "Reply 2."]
    totals = desk.ledger.totals()
    assert (totals.done, totals.usage.completion, totals.cost) == (3, 6, 6.0)


def test_what_waits_is_not_written_twice(desk: Desk):
    desk.round(ONE, TWO)
    assert "2 requests still wait for their results" in desk.round(ONE, TWO)[0]
    desk.round(*ASKED)
    assert [row["custom_id"] for row in desk.rows("requests-0002.jsonl")] == [THREE.key]
    desk.round(*ASKED)
    assert desk.files() == ["requests-0001.jsonl", "requests-0002.jsonl"]


def test_results_read_twice_are_paid_once(desk: Desk):
    desk.round(*ASKED)
    desk.answer("requests-0001.jsonl", "results-a.jsonl")
    desk.answer("requests-0001.jsonl", "results-b.jsonl")
    desk.round(*ASKED)
    desk.round(*ASKED)
    assert (desk.ledger.totals().done, desk.ledger.totals().cost) == (3, 6.0)


@pytest.mark.parametrize(
    "bad",
    [
        {"response": {"status_code": 500, "body": {"error": {"message": "oops"}}}},
        {"response": None, "error": {"code": "batch_expired", "message": "too late"}},
        {"response": {"status_code": 200, "body": {}}},
        {"response": {"status_code": 200, "body": {"choices": []}}},
        {"response": {"status_code": 200, "body": "Hello."}},
    ],
)
def test_failed_row_is_told_and_asked_again_once(desk: Desk, bad: dict[str, Any]):
    desk.round(*ASKED)
    desk.answer("requests-0001.jsonl", "results-1.jsonl", lambda number: bad if number == 1 else None)
    told = desk.round(*ASKED)
    assert "results-1.jsonl: line 2: " in told[0] and TWO.key in told[0] and "asked again" in told[0]
    assert told[1].endswith("results-1.jsonl: 2 replies") and "requests-0002.jsonl: 1 requests" in told[2]
    assert [row["custom_id"] for row in desk.rows("requests-0002.jsonl")] == [TWO.key]
    # While the second batch runs, the first one's failure is no reason to ask a third time.
    assert "1 requests still wait" in desk.round(*ASKED)[-1]
    assert desk.files() == ["requests-0001.jsonl", "requests-0002.jsonl", "results-1.jsonl"]
    desk.answer("requests-0002.jsonl", "results-2.jsonl")
    desk.round(*ASKED)
    assert desk.ledger.totals().done == 3
    assert len(desk.files()) == 4


def test_row_that_fails_twice_is_asked_a_third_time(desk: Desk):
    for number in (1, 2):
        desk.round(ONE)
        desk.answer(f"requests-000{number}.jsonl", f"results-{number}.jsonl", down)
    desk.round(ONE)
    assert desk.files()[:3] == ["requests-0001.jsonl", "requests-0002.jsonl", "requests-0003.jsonl"]


def test_one_failure_that_is_there_under_two_names_is_one_failure(desk: Desk):
    desk.round(ONE)
    desk.answer("requests-0001.jsonl", "results-1.jsonl", down)
    desk.round(ONE)
    (desk.folder / "results-copy.jsonl").write_bytes((desk.folder / "results-1.jsonl").read_bytes())
    assert "1 requests still wait" in desk.round(ONE)[-1]
    assert "requests-0003.jsonl" not in desk.files()


@pytest.mark.parametrize(
    "line",
    ["", "{half", "5", "null", "[]", "{}", '{"custom_id": "x", "response": 5}', "9" * 5000, "[" * 100_000],
)
def test_line_that_is_no_result_is_told_with_its_number_and_the_others_are_taken(desk: Desk, line: str):
    desk.round(*ASKED)
    desk.answer("requests-0001.jsonl", "results.jsonl")
    path = desk.folder / "results.jsonl"
    path.write_text(f"{line}\n{path.read_text()}")
    told = desk.round(*ASKED)
    assert told[-1] == f"{path}: 3 replies"
    assert [text.startswith(f"{path}: line 1: not a result of a batch") for text in told[:-1]] == [
        True
    ] * bool(line)


def test_results_of_another_ledger_are_told(desk: Desk):
    desk.round(ONE)
    desk.answer("requests-0001.jsonl", "results.jsonl", lambda _: {"custom_id": "else"})
    assert "else: this ledger made no such request" in desk.round(ONE)[0]
    assert desk.ledger.totals().done == 0


def test_requests_file_that_was_spoiled_is_an_error(desk: Desk):
    desk.round(ONE)
    (desk.folder / "requests-0001.jsonl").write_text('{"custom_id": "x"}\n{"cust')
    with pytest.raises(
        VistuneError, match=r"requests-0001\.jsonl: line 2: not a batch request .*Remove the file"
    ):
        desk.round(ONE)


def test_removed_file_is_written_anew_and_no_other_is_overwritten(desk: Desk):
    desk.round(ONE)
    desk.round(ONE, TWO)
    (desk.folder / "requests-0001.jsonl").unlink()
    desk.round(ONE, TWO)
    assert desk.files() == ["requests-0002.jsonl", "requests-0003.jsonl"]
    assert [row["custom_id"] for row in desk.rows("requests-0002.jsonl")] == [TWO.key]
    assert [row["custom_id"] for row in desk.rows("requests-0003.jsonl")] == [ONE.key]


@pytest.mark.parametrize(("limit", "value"), [("_MOST_REQUESTS", 2), ("_MOST_BYTES", 600)])
def test_files_are_no_larger_than_the_api_takes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
):
    monkeypatch.setattr(batch_module, limit, value)
    desk.round(*(request(f"number {n}", seed=n) for n in range(5)))
    sizes = [len(desk.rows(name)) for name in desk.files()]
    assert sum(sizes) == 5 and sizes == [2, 2, 1]
    if limit == "_MOST_BYTES":
        assert all((desk.folder / name).stat().st_size <= value for name in desk.files())


def test_request_larger_than_a_file_still_gets_one(desk: Desk, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batch_module, "_MOST_BYTES", 10)
    desk.round(ONE, TWO)
    assert [len(desk.rows(name)) for name in desk.files()] == [1, 1]
