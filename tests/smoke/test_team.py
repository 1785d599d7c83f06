"""Several processes learn what one does: each kind of run, in both precisions, killed and moved."""

from __future__ import annotations

import copy
import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.conftest import slow_tests
from tests.team import run_job, run_team
from tests.tiny import save_tiny_parts
from vistune.recipe import parse_recipe
from vistune.train.loop import read_all_metrics

PICTURES, TEXTS = 20, 20
STEPS = 4
LORA = {"rank": 2, "alpha": 4, "dropout": 0.0}
RUNS = {
    "plain": {},
    "roomy": {"memory": 2**40},
    "narrow": {"memory": 1},
    "lora": {"lora": LORA},
    "dora": {"lora": {**LORA, "dora": True, "merge": False}},
    "experts": {"lora": LORA, "family": "mixtral"},
    "tied": {"family": "qwen3"},
    "checkpointed": {"run": {"checkpoint_activations": True}},
    "chunked": {"chunk": 320 * 3},
    "broken": {"data": "broken.json"},
    "encoder": {"trains": ["vision", "connector", "llm"]},
    "encoder beside lora": {
        "trains": ["vision", "llm"],
        "lora": LORA,
        "run": {"checkpoint_activations": True},
    },
    "cached": {"data": "broken.json", "run": {"features": "cache"}},
}
if slow_tests:  # compiling takes minutes
    RUNS["compiled"] = {"run": {"compile": True}}


@pytest.fixture(scope="module")
def files(tmp_path_factory, tokenizer):
    """Twenty records with a picture, twenty without, and the same with half of the pictures torn; and tiny
    parts of two families."""
    rng = np.random.default_rng(0)
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
            noise = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / "images" / f"{number}.png")
            whole = (folder / "images" / f"{number}.png").read_bytes()
            (folder / "images" / f"torn-{number}.png").write_bytes(whole[: len(whole) // 2])
            record["image"] = f"{number}.png"
            record["conversations"][0]["value"] += "\n<image>"
        records.append(record)
    (folder / "mixed.json").write_text(json.dumps(records))
    for record in records[0:PICTURES:2]:
        record["image"] = f"torn-{record['image']}"
    (folder / "broken.json").write_text(json.dumps(records))
    for family in ("llama", "qwen3", "mixtral"):
        save_tiny_parts(folder / family, tokenizer, family=family)
    save_tiny_parts(folder / "large", tokenizer)
    config = LlamaConfig(vocab_size=320, hidden_size=1024, intermediate_size=2816, num_hidden_layers=4)
    LlamaForCausalLM(config).bfloat16().save_pretrained(folder / "large" / "llm")
    return folder


def job_of(files: Path, out: Path, name: str, precision: str) -> dict:
    options = copy.deepcopy(RUNS.get(name, {"family": name}))
    parts = files / options.get("family", "llama")
    stage = {
        "data": {options.get("data", "mixed.json"): 1},
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_steps": STEPS,
        "epochs": 9,
    }
    instruct = {**stage, "trains": options.get("trains", ["connector", "llm"])}
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
        "run": {"row_tokens": 60, "save_steps": 2, "bad_pictures": 0.6, **options.get("run", {})},
        "precision": precision,
    }
    given = {key: options[key] for key in ("chunk", "memory") if key in options}
    return {
        "recipe": recipe,
        "data": str(files),
        "images": str(files / "images"),
        "out": str(out / f"{name}-{precision}"),
        **given,
    }


def losses(job: dict) -> dict[str, list[float]]:
    rows = read_all_metrics(Path(job["out"]), parse_recipe(job["recipe"], "job"))
    return {stage: [row["loss"] for row in found] for stage, found in rows.items()}


def broken_in(job, stage):
    listed = (Path(job["out"]) / stage / "set_aside.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["place"] for line in listed)


def check_ended(done, but=()):
    """Every process ended in order, ``but`` for those that were killed and those that missed them."""
    for rank, process in enumerate(done):
        assert rank in but or process.returncode == 0, f"rank {rank}: {process.stderr[-3000:]}"
        assert rank in but or "terminate called" not in process.stderr


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory):
    """All jobs by processes, kind and precision, and run; ``moved`` ones went on elsewhere."""
    out = tmp_path_factory.mktemp("runs")
    kinds = [(name, precision) for precision in ("float32", "bfloat16") for name in RUNS]
    on_four = kinds if slow_tests else [kind for kind in kinds if kind[0] in ("plain", "lora")]
    sizes = {1: kinds, 2: kinds, 4: on_four}
    jobs = {
        (size, *kind): job_of(files, out / str(size), *kind)
        for size, kinds in sizes.items()
        for kind in kinds
    }
    for kind in kinds:
        run_job(jobs[(1, *kind)])
    # Stopped within stage 2, on one process and on two; resumed on two, four and one.
    stopped = job_of(files, out / "stopped", "broken", "bfloat16")
    run_job({**stopped, "stop": STEPS + 4})
    killed = job_of(files, out / "killed", "broken", "float32")
    two = [jobs[(2, *kind)] for kind in kinds]
    small, large = jobs[1, "plain", "float32"], job_of(files, out, "large", "float32")
    loading = {**large, "small": small["recipe"], "loads": True}
    done = run_team(2, [loading, *two, stopped, {**killed, "kill": [1, STEPS + 4]}], out)
    check_ended(done, but=(0, 1))
    assert done[1].returncode == -signal.SIGKILL
    moved = {**killed, "out": str(out / "moved")}
    shutil.copytree(killed["out"], moved["out"])
    run_job(moved)
    check_ended(run_team(4, [*(jobs[(4, *kind)] for kind in on_four), killed], out))
    jobs |= {("moved", "broken", "bfloat16"): stopped, ("moved", "broken", "float32"): killed}
    return {**jobs, ("loading",): loading, ("alone", "broken", "float32"): moved}


def test_several_processes_learn_what_one_does_in_every_kind_of_run(runs):
    for kind, job in runs.items():
        if kind == ("loading",):
            continue
        tolerance = 1e-5 if kind[-1] == "float32" else 2e-2
        found = losses(job)
        for stage, expected in losses(runs[(1, *kind[1:])]).items():
            assert len(expected) == STEPS
            assert found[stage] == pytest.approx(expected, rel=tolerance), (kind, stage)


@pytest.mark.parametrize("kind", ["encoder", "encoder beside lora"])
def test_a_trained_encoder_is_in_the_checkpoint(runs, kind):
    """The layers that are read are, and are the same on several processes; the last one stays as it was."""
    state = {
        (size, stage): load_file(
            Path(runs[size, kind, "float32"]["out"]) / stage / "checkpoint" / "model.safetensors"
        )
        for size in (1, 2)
        for stage in ("align", "instruct")
    }
    names = [name for name in state[1, "align"] if "vision_tower" in name]
    layers = {name for name in names if ".layers." in name}
    last = {name for name in layers if ".layers.2." in name}
    unread = last | {name for name in names if "post_layernorm" in name}
    assert len(layers) == 3 * len(last) and last
    for name in names:
        before, after, spread = (state[key][name] for key in ((1, "align"), (1, "instruct"), (2, "instruct")))
        assert torch.equal(before, after) is (name in unread), name
        torch.testing.assert_close(spread, after, atol=2e-4, rtol=0)


def test_processes_that_do_not_lead_never_hold_the_whole_model(runs):
    """The weights are 102 MB in their file, 205 MB in float32; two processes share them."""
    out = Path(runs["loading",]["out"])
    leader, other = (json.loads((out / f"peak-{rank}.json").read_text()) for rank in (0, 1))
    assert leader["sums"] == other["sums"]
    assert leader["took"] > 205e6
    assert 102e6 < other["took"] < 200e6


def test_gradients_are_communicated_once_a_step_if_there_is_room(runs):
    """Two layers and what is no layer: three times a step in stage 2, once in stage 1."""
    roomy, narrow = (
        json.loads((Path(runs[2, kind, "float32"]["out"]) / "reduced-1.json").read_text())
        for kind in ("roomy", "narrow")
    )
    assert roomy == STEPS + 3 * STEPS < narrow


def test_broken_pictures_are_listed_over_all_processes_and_over_an_interruption(runs):
    expected = {stage: broken_in(runs[1, "broken", "float32"], stage) for stage in ("align", "instruct")}
    assert all(len(names) > 1 and "torn-" in names[0] for names in expected.values())
    for kind, job in runs.items():
        if "broken" in kind:
            assert {stage: broken_in(job, stage) for stage in expected} == expected, kind
