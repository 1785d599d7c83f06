"""`vistune generate` with an LLM, as a user runs it: estimate, limit, batch, and endpoints that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from benchmarks.stub_llm import completion, counts, served

from vistune.data.world.write import write_world

VISTUNE = str(Path(sys.executable).with_name("vistune"))
IMAGES = 8
SAMPLES = 3 * IMAGES
PRICES = "models:\n  stub: {prompt: 0, completion: 1000}\n"  # a tenth of a cent for each token of a reply


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, IMAGES, 0, 0, workers=1)
    (folder / "prices.yaml").write_text(PRICES)
    return folder


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with served() as url:
        yield url


def generate(
    world: Path, folder: Path, *arguments: object, code: int = 0
) -> subprocess.CompletedProcess[str]:
    given = [
        "--captions", world / "captions_train.json",
        "--instances", world / "instances_train.json",
        "--images", world / "images",
        "--model", "stub",
        "--out", folder / "out",
        "--ledger", folder / "ledger.sqlite",
        *arguments,
    ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "OPENAI_API_KEY"}
    done = subprocess.run(
        [VISTUNE, "generate", *map(str, given)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**environment, "OPENAI_API_KEY": "sk-secret"},
    )
    assert done.returncode == code, done.stderr[-3000:]
    assert "Traceback" not in done.stderr and "sk-secret" not in done.stderr + done.stdout
    return done


def test_dry_run_tells_requests_tokens_and_money_and_asks_nobody(world: Path, tmp_path: Path):
    told = generate(world, tmp_path, "--dry-run", "--prices", world / "prices.yaml").stdout.splitlines()
    assert told[0] == f"requests to stub: {SAMPLES} (8 conversation, 8 detail, 8 reasoning); 0 paid before"
    assert told[1].startswith("tokens: about ") and told[2].startswith("cost: about $")
    assert not (tmp_path / "out").exists()


def test_limit_stops_the_run_cleanly_and_a_higher_one_goes_on(world: Path, url: str, tmp_path: Path):
    asked = counts(url)["requests"]
    common = ("--base-url", url, "--prices", world / "prices.yaml", "--in-flight", 2)
    # A reply can cost $1.02 and does cost a few cents.
    stopped = generate(world, tmp_path, *common, "--max-cost", 1.2, code=2)
    assert "pass --max-cost 1.2" in stopped.stderr
    (spent,) = [line for line in stopped.stdout.splitlines() if line.startswith("spent: $")]
    assert 0 < float(spent.removeprefix("spent: $")) <= 1.2
    part = json.loads((tmp_path / "out" / "provenance.json").read_text())
    made = sum(part["counts"][kind] for kind in ("conversation", "detail", "reasoning"))
    assert part["complete"] is False and 0 < made < SAMPLES
    generate(world, tmp_path, *common, "--max-cost", 100)
    whole = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert whole["complete"] is True and set(whole["counts"].values()) >= {IMAGES}
    assert counts(url)["requests"] - asked == SAMPLES


def test_batch_goes_through_files_and_ends_as_a_run_without_one(world: Path, url: str, tmp_path: Path):
    first = generate(world, tmp_path, "--batch", "--prices", world / "prices.yaml").stdout
    folder = tmp_path / "out" / "batch"
    assert f"requests-0001.jsonl: {SAMPLES} requests" in first and f"waiting for a reply: {SAMPLES}" in first
    results = []
    for line in (folder / "requests-0001.jsonl").read_text().splitlines():
        row = json.loads(line)
        response = {"status_code": 200, "body": completion(row["body"])}
        results.append(json.dumps({"custom_id": row["custom_id"], "response": response}) + "\n")
    (folder / "results-1.jsonl").write_text("".join(results[1:]) + '{"half')
    second = generate(world, tmp_path, "--batch", "--prices", world / "prices.yaml").stdout
    assert f"results-1.jsonl: {SAMPLES - 1} replies" in second and "waiting for a reply: 1" in second
    assert f"line {SAMPLES}: not a result of a batch" in second
    (folder / "results-2.jsonl").write_text(results[0])
    third = generate(world, tmp_path, "--batch", "--prices", world / "prices.yaml").stdout
    assert "waiting" not in third
    assert [path.name for path in sorted(folder.glob("requests*"))] == ["requests-0001.jsonl"]
    live = tmp_path / "live"
    live.mkdir()
    generate(world, live, "--base-url", url)
    for path in (live / "out").iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes(), path.name


def test_endpoint_that_is_not_there_is_told_in_one_message(world: Path, tmp_path: Path):
    done = generate(
        world, tmp_path, "--base-url", "http://127.0.0.1:9/v1", "--patience", 3, code=2
    )  # fmt: skip
    (message,) = [line for line in done.stderr.splitlines() if line.startswith("vistune: ")]
    assert "http://127.0.0.1:9/v1: " in message and "failures in a row" in message
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not hasattr(__import__("resource"), "RLIMIT_FSIZE"), reason="needs a limit on files")
def test_full_disk_ends_the_run_with_a_message_and_a_sound_ledger(world: Path, url: str, tmp_path: Path):
    """A limit on the size of files stands for a disk without room."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000));"
        "sys.argv[0] = 'vistune'; from vistune.cli import main; main()"
    )
    arguments = [
        "--captions", world / "captions_train.json", "--images", world / "images", "--model", "stub",
        "--out", tmp_path / "out", "--ledger", tmp_path / "ledger.sqlite", "--base-url", url,
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "generate", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be " in done.stderr and "Traceback" not in done.stderr
    asked = counts(url)["requests"]
    generate(world, tmp_path, "--base-url", url)
    assert json.loads((tmp_path / "out" / "provenance.json").read_text())["complete"]
    assert counts(url)["requests"] - asked <= SAMPLES
