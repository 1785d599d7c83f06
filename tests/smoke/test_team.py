"""Several processes learn what one does: each kind of run, in both precisions, killed and moved."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from PIL import Image

from tests.team import run_team
from tests.tiny import save_tiny_parts
from vistune.recipe import parse_recipe
from vistune.train.loop import read_all_metrics, train

PICTURES, TEXTS = 20, 20
STEPS = 4
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0}
RUNS = {
    "plain": {},
    "lora": {"lora": LORA},
    "tied": {"family": "qwen3"},
    "checkpointed": {"run": {"checkpoint_activations": True}},
    "chunked": {"chunk": 320 * 3},
    "compiled": {"run": {"compile": True}},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizer):
    """Twenty records with a picture, twenty without; and tiny parts of two families."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "images").mkdir()
    records = []
    for number in range(PICTURES + TEXTS):
        answer = "A dog and two cats. " * (number % 4 + 1)
        record = {
            "id": str(number),
            "conversations": [
                {"from": "human", "value": "What is in the picture?"},
                {"from": "gpt", "value": answer},
            ],
        }
        if number < PICTURES:
            shade = number * 255 // PICTURES
            Image.new("RGB", (16, 16), (shade, 255 - shade, 7 * number % 256)).save(
                folder / "images" / f"{number}.png"
            )
            record["image"] = f"{number}.png"
            record["conversations"][0]["value"] += "\n<image>"
        records.append(record)
    (folder / "mixed.json").write_text(json.dumps(records))
    for family in ("llama", "qwen3"):
        save_tiny_parts(folder / family, tokenizer, family=family)
    return folder


def job_of(files: Path, out: Path, name: str, precision: str) -> dict:
    options = copy.deepcopy(RUNS[name])
    parts = files / options.get("family", "llama")
    stage = {
        "data": {"mixed.json": 1},
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_steps": STEPS,
        "epochs": 9,
    }
    instruct = {**stage, "trains": ["connector", "llm"]}
    if "lora" in options:
        instruct["lora"] = options["lora"]
    recipe = {
        "model": {
            "vision": str(parts / "vision"),
            "llm": str(parts / "llm"),
            "connector": "mlp2x_gelu",
            "template": "short",
            "max_length": 512,
        },
        "stages": {"align": {**stage, "trains": ["connector"]}, "instruct": instruct},
        "run": {"row_tokens": 150, "save_steps": 2, "bad_pictures": 0.0, **options.get("run", {})},
        "precision": precision,
    }
    chunk = {"chunk": options["chunk"]} if "chunk" in options else {}
    return {
        "recipe": recipe,
        "data": str(files),
        "images": str(files / "images"),
        "out": str(out / f"{name}-{precision}"),
        **chunk,
    }


def losses(job: dict) -> dict[str, list[float]]:
    rows = read_all_metrics(Path(job["out"]), parse_recipe(job["recipe"], "job"))
    return {stage: [row["loss"] for row in found] for stage, found in rows.items()}


def check_ended(done, ranks=None):
    for rank, process in enumerate(done):
        if ranks is None or rank in ranks:
            assert process.returncode == 0, f"rank {rank}: {process.stderr[-3000:]}"
            assert "terminate called" not in process.stderr


@pytest.fixture(scope="module")
def alone(files, tmp_path_factory):
    """The losses of one process."""
    out = tmp_path_factory.mktemp("alone")
    found = {}
    for precision in ("float32", "bfloat16"):
        for name in RUNS:
            job = job_of(files, out, name, precision)
            arguments = (Path(job[key]) for key in ("data", "images", "out"))
            train(parse_recipe(job["recipe"], "job"), *arguments)
            found[name, precision] = losses(job)
    return found


@pytest.mark.parametrize("size", [2, 4])
def test_several_processes_learn_what_one_does(files, alone, tmp_path, size):
    jobs = {key: job_of(files, tmp_path, *key) for key in alone}
    check_ended(run_team(size, list(jobs.values()), tmp_path))
    for key, expected in alone.items():
        tolerance = 1e-5 if key[1] == "float32" else 2e-2
        for stage, theirs in losses(jobs[key]).items():
            assert theirs == pytest.approx(expected[stage], rel=tolerance), (key, stage)
