"""The ledger: what was paid for stays, whoever is killed and however full the disk."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fake_llm import request
from vistune.errors import VistuneError
from vistune.llm.ledger import Ledger, default_ledger
from vistune.llm.request import Usage

ONE, TWO = request("one", temperature=0.5), request("two")
HOLD = """
import sys, time
from pathlib import Path
from vistune.llm.ledger import Ledger
from vistune.llm.request import Usage
from tests.fake_llm import request
ledger = Ledger(Path(sys.argv[1]))
reply = '{"choices": [{"message": {"content": "x"}}]}'
for number in range(100):
    ledger.asked(request(str(number)))
    ledger.done(request(str(number)).key, reply, Usage(1, 1), 0.5)
print("held", flush=True)
time.sleep(600)
"""


def body(text: str) -> str:
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "ledger.sqlite"


def rows(path: Path) -> list[dict[str, Any]]:
    database = sqlite3.connect(path)
    database.row_factory = sqlite3.Row
    return [dict(row) for row in database.execute("SELECT * FROM requests ORDER BY created")]


# What is kept


def test_request_goes_from_asked_to_done_and_its_reply_is_found_by_another_run(path: Path):
    with Ledger(path) as ledger:
        ledger.asked(ONE)
        assert ledger.reply(ONE.key) is None
        assert ledger.done(ONE.key, body("Hello."), Usage(7, 3), 0.25)
    with Ledger(path) as ledger:
        found = ledger.reply(ONE.key)
    assert found is not None and (found.text, found.paid_before) == ("Hello.", True)


def test_row_holds_content_state_raw_response_usage_cost_attempts_and_times(path: Path):
    with Ledger(path) as ledger:
        ledger.asked(ONE)
        ledger.failed(ONE.key, "HTTP 500", final=False)
        ledger.asked(ONE)
        ledger.done(ONE.key, body("Hello."), Usage(7, 3), 0.25)
    (row,) = rows(path)
    created, updated = row.pop("created"), row.pop("updated")
    assert 1.7e9 < created <= updated
    assert row == {
        "key": ONE.key,
        "model": "stub",
        "parameters": '{"temperature": 0.5}',
        "asked": "one",
        "state": "done",
        "response": body("Hello."),
        "error": None,
        "prompt_tokens": 7,
        "completion_tokens": 3,
        "cost": 0.25,
        "attempts": 2,
    }


def test_failure_is_kept_with_its_reason_and_only_a_final_one_counts_as_failed(path: Path):
    with Ledger(path) as ledger:
        for asked, final in ((ONE, False), (TWO, True)):
            ledger.asked(asked)
            ledger.failed(asked.key, "HTTP 500", final)
        assert ledger.totals().failed == 1
        assert ledger.reply(ONE.key) is None and ledger.reply(TWO.key) is None
    assert {row["asked"]: (row["state"], row["error"]) for row in rows(path)} == {
        "one": ("asked", "HTTP 500"),
        "two": ("failed", "HTTP 500"),
    }


def test_a_reply_is_never_taken_back(path: Path):
    with Ledger(path) as ledger:
        ledger.asked(ONE)
        ledger.done(ONE.key, body("Hello."), Usage(7, 3), 0.25)
        ledger.failed(ONE.key, "too late", final=True)
        assert ledger.reply(ONE.key) is not None
        assert (ledger.totals().done, ledger.totals().failed) == (1, 0)


def test_reply_to_what_was_never_asked_is_not_taken(path: Path):
    with Ledger(path) as ledger:
        assert not ledger.done(ONE.key, body("Hello."), Usage(7, 3), None)
        assert ledger.reply(ONE.key) is None


def test_totals_are_sums_of_one_model_or_of_all(path: Path):
    other = request("three")
    other = type(other)("other", other.messages, other.parameters)
    with Ledger(path) as ledger:
        assert ledger.totals().done == ledger.totals().attempts == 0
        for asked, usage, cost in (
            (ONE, Usage(7, 3), 0.25),
            (TWO, Usage(1, 2), None),
            (other, Usage(5, 5), 1.0),
        ):
            ledger.asked(asked)
            ledger.done(asked.key, body("x"), usage, cost)
        stub, every = ledger.totals("stub"), ledger.totals()
    assert (stub.done, stub.attempts, stub.usage, stub.cost) == (2, 2, Usage(8, 5), 0.25)
    assert (every.done, every.attempts, every.usage, every.cost) == (3, 3, Usage(13, 10), 1.25)


def test_key_tells_requests_apart_by_all_of_their_content(path: Path):
    same = request("one", temperature=0.5)
    others = [
        request("one", temperature=0.6),
        request("one", temperature=0.5, seed=1),
        request("One", temperature=0.5),
        type(ONE)("other", ONE.messages, ONE.parameters),
        type(ONE)("stub", ONE.messages[1:], ONE.parameters),
    ]
    assert same.key == ONE.key
    assert len({ONE.key, *(other.key for other in others)}) == 6
    ordered = (request("x", a=1, b=2).key, request("x", b=2, a=1).key)
    assert ordered[0] == ordered[1]


# Whose it is


def test_second_run_on_the_same_ledger_is_told_and_the_first_goes_on(path: Path):
    with Ledger(path) as ledger:
        with pytest.raises(VistuneError, match=r"ledger\.sqlite: another run is using this ledger.*--ledger"):
            Ledger(path)
        ledger.asked(ONE)
        assert ledger.done(ONE.key, body("Hello."), Usage(1, 1), None)
    Ledger(path).close()


def test_a_look_takes_no_lock_sees_what_is_there_and_writes_nothing(path: Path):
    with Ledger(path, read_only=True) as look:
        assert look.reply(ONE.key) is None and look.totals().attempts == 0
    assert not path.parent.exists()
    with Ledger(path) as ledger:
        ledger.asked(ONE)
        assert ledger.done(ONE.key, body("Hello."), Usage(1, 1), None)
        with Ledger(path, read_only=True) as look:
            assert look.reply(ONE.key) is not None
            with pytest.raises(VistuneError, match="cannot be written"):
                look.asked(TWO)
        ledger.asked(TWO)
    path.write_bytes(b"my diary " * 1000)
    with pytest.raises(VistuneError, match="cannot be used as a ledger"):
        Ledger(path, read_only=True)


def test_killed_run_leaves_a_sound_ledger_that_is_free(path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    with pytest.raises(VistuneError, match="another run is using this ledger"):
        Ledger(path)
    process.kill()
    process.communicate()
    with Ledger(path) as ledger:
        assert (ledger.totals().done, ledger.totals().cost) == (100, 50.0)
        assert ledger.reply(request("99").key) is not None
    assert integrity(path) == "ok"


def test_users_own_ledger_lies_in_their_data_folder():
    assert default_ledger().name == "ledger.sqlite" and default_ledger().parent.name == "vistune"
    assert default_ledger().is_absolute()


# What cannot be used


def integrity(path: Path) -> str:
    result: str = sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone()[0]
    return result


def test_full_disk_is_told_and_what_was_kept_stays(path: Path):
    with Ledger(path) as ledger:
        ledger.asked(ONE)
        ledger.done(ONE.key, body("Hello."), Usage(1, 1), None)
        pages = ledger._database.execute("PRAGMA page_count").fetchone()[0]
        ledger._database.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(VistuneError, match=r"ledger\.sqlite: cannot be written \(.*full\).*make room"):
            for number in range(100):
                ledger.asked(request(f"{number}" * 200))
        kept = ledger.totals()
        assert ledger.reply(ONE.key) is not None
    with Ledger(path) as ledger:
        assert ledger.totals() == kept and 1 < kept.attempts < 100
        ledger.asked(TWO)  # there is room again
        assert ledger.done(TWO.key, body("Hello."), Usage(1, 1), None)
    assert integrity(path) == "ok"


def test_file_that_is_no_ledger_is_refused_and_left_alone(path: Path):
    path.parent.mkdir()
    path.write_bytes(b"my diary " * 1000)
    with pytest.raises(
        VistuneError, match=r"ledger\.sqlite: cannot be used as a ledger \(file is not a database"
    ):
        Ledger(path)
    assert path.read_bytes() == b"my diary " * 1000
    path.unlink()
    Ledger(path).close()  # the lock was let go


def test_folder_in_its_place_is_refused(path: Path):
    path.mkdir(parents=True)
    with pytest.raises(VistuneError, match=r"cannot be used as a ledger .*Choose another --ledger"):
        Ledger(path)


def test_place_where_no_file_can_be_is_refused(path: Path):
    path.parent.write_text("a file where a folder should be")
    with pytest.raises(VistuneError, match=r"ledger\.sqlite: cannot be written .*Choose another --ledger"):
        Ledger(path)


def test_damaged_ledger_is_told(path: Path):
    with Ledger(path) as ledger:
        for number in range(50):
            ledger.asked(request(f"{number}" * 500))
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with (
        Ledger(path) as ledger,
        pytest.raises(VistuneError, match=r"ledger\.sqlite: cannot be read \(.*malformed"),
    ):
        ledger.totals()
