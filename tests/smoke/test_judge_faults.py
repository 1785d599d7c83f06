"""A judge behind an endpoint that fails in every way: nothing is lost or paid for twice, and the scores are
those of a run without faults."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import stub_llm
from benchmarks.stub_llm import Faults, counts

from tests.fake_judge import judged, options, read, stub, write_bench
from vistune.evaluate.judge.run import Judged, judge

QUESTIONS, RUNS = 30, 2
FAULTS = Faults(
    too_many=0.10, server_error=0.05, hang=0.03, truncated=0.03, refusal=0.05, dropped=0.03, seed=1
)


@pytest.fixture(autouse=True)
def the_stub_is_a_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub_llm, "written", judged)


def run(folder: Path, url: str) -> Judged:
    # Six attempts: three useless replies in a row come to one of 120 reviews now and then, and are a problem.
    return judge(options(folder, url, runs=RUNS, swap=True, timeout=1.0, in_flight=32, attempts=6))


def test_faulty_endpoint_gives_the_clean_runs_reviews(tmp_path: Path):
    clean, faulty = tmp_path / "clean", tmp_path / "faulty"
    for folder in (clean, faulty):
        folder.mkdir()
        write_bench(folder, QUESTIONS)
    with stub() as url:
        expected = run(clean, url)
        assert counts(url) == {"requests": 120, "replies": 120, "paid_twice": 0}
    with stub(FAULTS) as url:
        found = run(faulty, url)
        given = counts(url)
        assert given["requests"] > 140 and given["paid_twice"] == 0
        assert given["replies"] == 120 + sum(row["attempts"] - 1 for row in rows(faulty, attempts=True))
        run(faulty, url)
        assert counts(url) == given  # all is in the ledger
    assert not found.problems and found.stopped is None and found.asked_again > 0
    assert rows(clean) == rows(faulty)
    assert [one.measures for one in found.runs] == [one.measures for one in expected.runs]


def rows(folder: Path, attempts: bool = False) -> list[dict[str, object]]:
    """All reviews; ``attempts`` tells of refusals, which a clean run has none of."""
    found = [row for path in sorted((folder / "out").glob("reviews*")) for row in read(path)]
    assert len(found) == 2 * RUNS * QUESTIONS
    return found if attempts else [{**row, "attempts": 1} for row in found]
