"""`vistune generate`: what it refuses, what it makes of its options, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.fake_llm import request
from vistune.data.generation import command as command_module
from vistune.data.generation import options as options_module
from vistune.data.generation.command import run_generate
from vistune.data.generation.options import GenerateOptions, parse_parameters
from vistune.data.teachers.prompted import DEFAULT_PARAMETERS
from vistune.errors import VistuneError
from vistune.llm.ledger import Ledger
from vistune.llm.request import Usage


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two annotated images; and no ledger but those in here."""
    (tmp_path / "images").mkdir()
    rows = []
    for name in ("dog", "cat"):
        Image.new("RGB", (20, 10), "navy").save(tmp_path / "images" / f"{name}.jpg")
        rows.append(json.dumps({"image": f"{name}.jpg", "captions": [f"A {name} runs."]}) + "\n")
    (tmp_path / "list.jsonl").write_text("".join(rows), encoding="utf-8")
    monkeypatch.setattr(command_module, "default_ledger", lambda: tmp_path / "ledger.sqlite")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path


def run(folder: Path, **options: Any) -> list[str]:
    given = {
        "annotations": folder / "list.jsonl",
        "images": folder / "images",
        "out": folder / "out",
        **options,
    }
    return list(run_generate(GenerateOptions(**given)))


# What is refused, before anything is written


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": "gpt"}, "Unknown teacher 'gpt'. Choose: offline, llm"),
        ({"teacher": "llm"}, "--teacher llm needs --model"),
        ({"base_url": "http://x/v1"}, "--base-url is for an LLM; give --model"),
        ({"dry_run": True}, "--dry-run is for an LLM"),
        ({"batch": True}, "--batch is for an LLM"),
        ({"max_cost": 0.0}, "--max-cost is for an LLM"),
        ({"ledger": Path("x")}, "--ledger is for an LLM"),
        ({"prices": Path("x")}, "--prices is for an LLM"),
        ({"prompts": Path("x")}, "--prompts is for an LLM"),
        ({"param": ["a=1"]}, "--param is for an LLM"),
        ({"conversation_boxes": True}, "--conversation-boxes is for an LLM"),
        ({"reasoning_sees_dialogue": True}, "--reasoning-sees-dialogue is for an LLM"),
        ({"attempts": 5}, "--attempts is for an LLM"),
        ({"in_flight": 2}, "--in-flight is for an LLM"),
        ({"timeout": 2.0}, "--timeout is for an LLM"),
        ({"patience": 2.0}, "--patience is for an LLM"),
        ({"requests_per_minute": 2.0}, "--requests-per-minute is for an LLM"),
        ({"tokens_per_minute": 2.0}, "--tokens-per-minute is for an LLM"),
        ({"captions": Path("c.json")}, "either --annotations or COCO's"),
        ({"model": "m", "dry_run": True, "batch": True}, "either --dry-run or --batch"),
        ({"model": "gpt-4o", "batch": True, "max_cost": 1.0}, "--max-cost cannot stop a batch"),
        ({"model": "m", "batch": True, "timeout": 2.0}, "--timeout is for requests that are sent"),
        ({"model": "m", "dry_run": True, "patience": 2.0}, "--patience is for requests that are sent"),
        ({"model": "m", "teacher": "offline"}, "--model is for an LLM"),
        ({"model": "m", "param": ["seed=3"]}, "every request gets its own; `seed=null` sends none"),
        ({"picture": "middle"}, "--picture 'middle': choose of random, first, last"),
        ({"file_format": "csv"}, "--format 'csv': choose of json, jsonl, parquet"),
        ({"types": "detail,brief"}, "--types: unknown type 'brief'"),
        ({"mix": "detail"}, "--mix: cannot read 'detail'"),
        ({"mix": "detail=3"}, "--mix wants 3 x detail, and there are 2 usable images"),
        ({"mix": "detail=0"}, "--mix wants no sample"),
        ({"mix": "conversation=1,detail=1", "types": "detail"}, "--mix counts conversation, which --types"),
        ({"model": "m", "param": ["temperature"]}, "--param 'temperature': expected NAME=VALUE"),
        ({"model": "m", "max_cost": 1.0}, "--max-cost: no price is known for m"),
        ({"model": "m"}, "Set the environment variable OPENAI_API_KEY, or pass --base-url"),
        ({"model": "m", "base_url": "http://x/v1", "prompts": Path("nowhere")}, "nowhere.*cannot be read"),
        ({"model": "m", "dry_run": True, "prices": Path("no.yaml")}, "no.yaml: cannot be read"),
    ],
)  # fmt: skip
def test_options_that_contradict_or_would_be_ignored_are_refused(folder: Path, options, message: str):
    with pytest.raises(VistuneError, match=message):
        run(folder, **options)
    assert not (folder / "out").exists()


def test_every_option_for_an_llm_is_refused_without_one():
    """A new option must be sorted: for all teachers, or for an LLM."""
    for_all = {
        "images", "out", "captions", "instances", "annotations", "teacher", "model", "types", "mix", "limit",
        "seed", "picture", "file_format",
    }  # fmt: skip
    assert set(GenerateOptions.model_fields) - for_all == set(options_module._FOR_LLM)


def test_option_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="colour"):
        GenerateOptions(images=Path(), out=Path(), colour="red")  # type: ignore[call-arg]


# Parameters


def test_parameters_are_read_over_the_defaults():
    assert parse_parameters([]) == DEFAULT_PARAMETERS == {"temperature": 0.7, "max_tokens": 1024}
    given = ["temperature=0.2", "max_tokens=null", "stop=[a, b]", "top_p=1", "user=x=y", "flag=true"]
    assert parse_parameters(given) == {
        "temperature": 0.2, "stop": ["a", "b"], "top_p": 1, "user": "x=y", "flag": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "pair", ["x", "", "=5", "model=x", "messages=[]", "stream=true", "n=2", "seed=1", "x=[", "x=2020-01-01",
             "x=.nan", "max_tokens=many", "max_completion_tokens=1.5"]
)  # fmt: skip
def test_parameter_that_cannot_be_one_is_refused(pair: str):
    with pytest.raises(VistuneError, match="--param "):
        parse_parameters([pair])


# What is told


def test_offline_teacher_writes_and_tells_what_it_wrote(folder: Path):
    assert run(folder) == [
        f"{folder / 'out' / name}.json: 2" for name in ("conversation", "detail", "reasoning", "alignment")
    ]
    assert not (folder / "ledger.sqlite").exists()


def test_what_was_set_aside_is_told_with_its_reason(folder: Path):
    with open(folder / "list.jsonl", "a") as file:
        file.write('{"image": "bird.jpg", "captions": ["A bird."]}\n')
    assert run(folder)[-1] == f"set aside: 1 x picture is missing (see {folder / 'out' / 'set_aside.jsonl'})"


def table(folder: Path) -> Path:
    """A dollar for each token of a prompt, two for each of a reply."""
    (folder / "prices.yaml").write_text("models:\n  m: {prompt: 1000000, completion: 2000000}\n")
    return folder / "prices.yaml"


def test_dry_run_counts_requests_tokens_and_money_and_writes_nothing(folder: Path):
    mine = folder / "prompts"
    mine.mkdir()
    # 8 + 10 + 16 characters of the prompt and 11 or 11 of the picture; replies of 16 characters.
    text = "system: Be short\nexamples:\n  - {context: A bee runs, reply: The bee is small}\n"
    (mine / "detail.yaml").write_text(text.replace("Be short", "Be brief"))
    options = {"model": "m", "types": "detail", "prompts": mine, "prices": table(folder), "dry_run": True}
    requests, tokens, cost = run(folder, **options)
    assert requests == "requests to m: 2 (2 detail); 0 paid before"
    prompt, completion = 2 * 12, 2 * 4  # 45 characters are 12 tokens, 16 are 4
    assert tokens.startswith(f"tokens: about {prompt} of prompts and {completion} of replies")
    assert cost.startswith(f"cost: about ${prompt + 2 * completion}.00 at ")
    assert not (folder / "out").exists() and not (folder / "ledger.sqlite").exists()


def test_dry_run_does_not_count_what_was_paid_for(folder: Path):
    before = run(folder, model="m", dry_run=True)
    assert before[0] == "requests to m: 6 (2 conversation, 2 detail, 2 reasoning); 0 paid before"
    assert before[2] == "cost: unknown; give a price table with --prices"
    answer_all(folder, "model=m")
    assert run(folder, model="m", dry_run=True)[0] == (
        "requests to m: 0 (0 conversation, 0 detail, 0 reasoning); 6 paid before"
    )


def test_dry_run_looks_into_a_ledger_that_another_run_is_using(folder: Path):
    answer_all(folder)
    with Ledger(folder / "ledger.sqlite"):
        assert run(folder, model="m", dry_run=True)[0].endswith("; 6 paid before")


def answer_all(folder: Path, _: str = "") -> None:
    """Write a batch's requests elsewhere, and put replies to them into the ledger."""
    from benchmarks.stub_llm import completion

    run(folder, model="m", batch=True, out=folder / "elsewhere")
    with Ledger(folder / "ledger.sqlite") as ledger:
        for line in (folder / "elsewhere" / "batch" / "requests-0001.jsonl").read_text().splitlines():
            row = json.loads(line)
            assert ledger.done(row["custom_id"], json.dumps(completion(row["body"])), Usage(1, 1), None)


def test_replies_in_the_ledger_make_a_whole_run_without_an_endpoint(folder: Path):
    answer_all(folder)
    told = run(folder, model="m", base_url="http://127.0.0.1:9/v1")
    assert told[:3] == [f"{folder / 'out' / k}.json: 2" for k in ("conversation", "detail", "reasoning")]
    assert told[-1] == "spent: unknown (no price for this model; see --prices)"
    told = run(folder, model="m", base_url="http://127.0.0.1:9/v1", prices=table(folder), max_cost=0.0)
    assert told[-1] == "spent: $0.0000"


def test_run_without_a_batch_is_refused_while_one_is_under_way(folder: Path):
    run(folder, model="m", batch=True)
    with pytest.raises(VistuneError, match=r"out/batch: 6 requests of a batch still wait .*--batch"):
        run(folder, model="m", base_url="http://127.0.0.1:9/v1")


def test_second_run_on_the_same_ledger_is_told(folder: Path):
    with Ledger(folder / "mine.sqlite") as ledger:
        ledger.asked(request("one"))
        with pytest.raises(VistuneError, match=r"mine\.sqlite: another run is using this ledger"):
            run(folder, model="m", base_url="http://x/v1", ledger=folder / "mine.sqlite")
    assert not (folder / "out").exists()
