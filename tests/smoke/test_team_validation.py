"""Validation on two processes: what one process measures, and training that does not notice it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from tests.team import run_team
from tests.tiny import save_tiny_parts
from vistune.recipe import parse_recipe
from vistune.train.loop import read_all_metrics, train
from vistune.train.validation import read_validation

STEPS = 24
HELD_OUT = {"data": "held.json", "questions": "asked.jsonl", "every": 8}
ANSWERS = ("Red.", "A dog and two cats.", "Blue.")


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizer):
    """Records with and without pictures; three of them held out, so that a process has less to do than the
    other."""
    folder = tmp_path_factory.mktemp("team")
    (folder / "images").mkdir()
    records, asked = [], []
    for number in range(15):
        image = f"{number}.png" if number % 3 else None
        shade = 255 * (number % 3) // 2
        Image.new("RGB", (16, 16), (shade, 255 - shade, 9)).save(folder / "images" / f"{number}.png")
        answer = ANSWERS[number % 3]
        question = "What is in the picture?"
        turns = [
            {"from": "human", "value": question + "\n<image>" * bool(image)},
            {"from": "gpt", "value": answer},
        ]
        shown = {"image": image} if image else {}
        records.append({"id": str(number), "conversations": turns, **shown})
        asked.append({"id": str(number), "question": question, "answer": answer, **shown})
    (folder / "mixed.json").write_text(json.dumps(records))
    (folder / "held.json").write_text(json.dumps(records[:3]))
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked[:5]))
    save_tiny_parts(folder, tokenizer)
    return folder


def job_of(files, out, name, validation=HELD_OUT, precision="float32", run=None, **stage):
    instruct = {
        "trains": ["connector", "llm"],
        "data": {"mixed.json": 1},
        "learning_rate": 1e-2,
        "batch_size": 5,
        "max_steps": STEPS,
        "epochs": 99,
        **({"validation": validation} if validation else {}),
        **stage,
    }
    model = {
        "vision": str(files / "vision"),
        "llm": str(files / "llm"),
        "template": "short",
        "max_length": 256,
    }
    recipe = {
        "model": model,
        "stages": {"instruct": instruct},
        "run": {"row_tokens": 100, **(run or {})},
        "precision": precision,
    }
    return {"recipe": recipe, "data": str(files), "images": str(files / "images"), "out": str(out / name)}


def learned(job):
    out = Path(job["out"])
    losses = [row["loss"] for row in read_all_metrics(out, parse_recipe(job["recipe"], "job"))["instruct"]]
    return losses, load_file(out / "instruct" / "checkpoint" / "model.safetensors")


def measured(job):
    return read_validation(Path(job["out"]) / "instruct" / "validation.jsonl")


def test_two_processes_measure_what_one_does_and_learn_as_if_they_did_not(files, tmp_path):
    stopping = {**HELD_OUT, "every": 1, "stop_after": 2}
    jobs = {
        "plain": job_of(files, tmp_path, "plain", None),
        "validated": job_of(files, tmp_path, "validated"),
        "rounded": job_of(files, tmp_path, "rounded", precision="bfloat16"),
        "plain-rounded": job_of(files, tmp_path, "plain-rounded", None, precision="bfloat16"),
        "compiled": job_of(files, tmp_path, "compiled", run={"compile": True}),
        "stopped": job_of(files, tmp_path, "stopped", stopping, learning_rate=0.5),
    }
    for rank, process in enumerate(run_team(2, list(jobs.values()), tmp_path)):
        assert process.returncode == 0, f"rank {rank}: {process.stderr[-3000:]}"
    for plain, validated in (("plain", "validated"), ("plain-rounded", "rounded")):
        (losses, weights), (others, theirs) = learned(jobs[plain]), learned(jobs[validated])
        assert losses == others
        assert all(weights[name].equal(theirs[name]) for name in weights)
    one = job_of(files, tmp_path, "one")
    train(parse_recipe(one["recipe"], "job"), files, files / "images", tmp_path / "one")
    expected = measured(one)
    assert [row.step for row in expected] == [8, 16, 24]
    assert expected[-1].accuracy > 0  # so that there is something to count
    for name in ("validated", "compiled"):
        rows = measured(jobs[name])
        assert [row.loss for row in rows] == pytest.approx([row.loss for row in expected], rel=1e-4)
        assert [(row.step, row.accuracy, row.questions) for row in rows] == [
            (row.step, row.accuracy, row.questions) for row in expected
        ]
    # Rounding alone leads two runs apart, later ones far.
    assert measured(jobs["rounded"])[0].loss == pytest.approx(expected[0].loss, rel=0.1)
    stopped = measured(jobs["stopped"])
    assert len(learned(jobs["stopped"])[0]) == len(stopped) < STEPS
    best = json.loads((tmp_path / "stopped" / "instruct" / "best" / "validation.json").read_text())
    assert best["step"] == len(stopped) - 2
