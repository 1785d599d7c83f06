"""A run that is killed ten times ends as if it had never been, and pays for nothing twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks.stub_llm import counts, served

from vistune.data.world.write import write_world

VISTUNE = str(Path(sys.executable).with_name("vistune"))
IMAGES, IN_FLIGHT, KILLS = 8, 2, 10
SAMPLES = 3 * IMAGES


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, IMAGES, 0, 0, workers=1)
    return folder


def command(world: Path, url: str, out: Path, ledger: Path) -> list[str]:
    given = {
        "--captions": world / "captions_train.json",
        "--instances": world / "instances_train.json",
        "--images": world / "images",
        "--model": "stub",
        "--base-url": url,
        "--in-flight": IN_FLIGHT,
        "--out": out,
        "--ledger": ledger,
    }
    return [VISTUNE, "generate", *(str(part) for pair in given.items() for part in pair)]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def replies(ledger: Path) -> int:
    """How many a ledger holds; looked up beside the run that is writing it."""
    if not ledger.exists():
        return 0
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as database:
        try:
            row = database.execute("SELECT COUNT(*) FROM requests WHERE state = 'done'").fetchone()
        except sqlite3.OperationalError:  # not yet made
            return 0
    return int(row[0])


def wait_for_reply(process: subprocess.Popen[bytes], ledger: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while replies(ledger) < count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def test_ten_kills_change_nothing_and_cost_only_what_was_in_flight(world: Path, tmp_path: Path):
    rng = random.Random(0)
    ledger = tmp_path / "killed.sqlite"
    with served(0.2) as url:
        run(command(world, url, tmp_path / "whole", tmp_path / "whole.sqlite"))
        assert counts(url) == {"requests": SAMPLES, "replies": SAMPLES, "paid_twice": 0}
    with served(0.2) as url:
        arguments = command(world, url, tmp_path / "out", ledger)
        for kill in range(KILLS):
            process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            # At least one more reply each time, so that the kills fall in all parts of the work.
            wait_for_reply(process, ledger, min(kill + 1, SAMPLES - 2))
            time.sleep(rng.uniform(0, 0.3))
            assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        kept = replies(ledger)
        assert KILLS <= kept < SAMPLES
        told = run(arguments).stdout
        given = counts(url)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert replies(ledger) == SAMPLES
    # What was in flight at a kill may have been charged for; nothing else is asked a second time.
    assert SAMPLES <= given["requests"] <= SAMPLES + KILLS * IN_FLIGHT
    assert given["paid_twice"] <= KILLS * IN_FLIGHT
    assert f"{tmp_path / 'out' / 'detail.json'}: {IMAGES}" in told


def test_ctrl_c_keeps_what_was_paid_for_and_the_same_command_goes_on(world: Path, tmp_path: Path):
    ledger = tmp_path / "ledger.sqlite"
    with served(0.2) as url:
        arguments = command(world, url, tmp_path / "out", ledger)
        process = subprocess.Popen(arguments, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        wait_for_reply(process, ledger, 4)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130, told.decode()
        assert told.decode().splitlines()[-1].startswith("vistune: interrupted") and b"Traceback" not in told
        assert not (tmp_path / "out" / "provenance.json").exists()
        run(arguments)
        assert counts(url)["requests"] <= SAMPLES + IN_FLIGHT
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["complete"]


def test_second_run_on_the_same_ledger_is_told_while_the_first_goes_on(world: Path, tmp_path: Path):
    ledger = tmp_path / "ledger.sqlite"
    with served(0.05) as url:
        first = subprocess.Popen(
            command(world, url, tmp_path / "first", ledger), stderr=subprocess.DEVNULL, stdout=subprocess.PIPE
        )
        wait_for_reply(first, ledger, 1)
        first.send_signal(signal.SIGSTOP)  # however slow the second is to start
        second = subprocess.run(
            command(world, url, tmp_path / "second", ledger), capture_output=True, text=True, check=False
        )
        assert second.returncode == 2 and "another run is using this ledger" in second.stderr
        assert not (tmp_path / "second").exists()
        first.send_signal(signal.SIGCONT)
        first.communicate(timeout=120)
        assert first.returncode == 0
