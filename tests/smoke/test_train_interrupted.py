"""A training run that is killed, or moved to other processes: as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.tiny import save_tiny_parts
from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.teachers.scripted import OfflineTeacher

VISTUNE = str(Path(sys.executable).with_name("vistune"))
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
STEPS, KILLS = 40, 10


@pytest.fixture(scope="module")
def command(tmp_path_factory, world_annotations, tiny_world, tokenizer):
    """The command of a short run on tiny parts, without ``--out``."""
    folder = tmp_path_factory.mktemp("interrupted")
    generate(
        world_annotations,
        OfflineTeacher(world_annotations.categories),
        folder / "data",
        GenerationSettings(seed=0),
    )
    stage = {"learning_rate": 1e-3, "batch_size": 4, "data": {"conversation.json": 1, "detail.json": 1}}
    recipe = {
        "model": {**save_tiny_parts(folder / "parts", tokenizer), "template": "short", "max_length": 512},
        "stages": {
            "align": {**stage, "trains": ["connector"], "max_steps": 3},
            "instruct": {**stage, "trains": ["connector", "llm"], "max_steps": STEPS, "epochs": 100},
        },
        "run": {"save_steps": 3, "row_tokens": 400},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return ["train", str(path), "--data", str(folder / "data"), "--images", str(tiny_world / "images")]


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run([VISTUNE, *command, "--out", str(out)])
    return out


def run(command):
    # One thread: a machine may give a process another number of them each time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def run_until(command, out, enough):
    """Start the run; kill it, and all its processes, once ``enough(rows of stage 2)``."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 200
    while process.poll() is None and not enough(len(rows_of(out))):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    ended = process.poll() is not None
    if not ended:
        for one in [process.pid, *descendants(process.pid)]:
            os.kill(one, signal.SIGKILL)
    process.wait()
    return ended


def descendants(process):
    """All that ``process`` started: those of torchrun are not in its group."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    parents = {int(pid): int(parent) for pid, parent in map(str.split, listed.splitlines())}
    found = [process]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def rows_of(out):
    path = out / "instruct" / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def losses_of(out):
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows_of(out)]


def weights_of(out):
    return load_file(out / "instruct" / "checkpoint" / "model.safetensors")


def test_ten_kills_at_random_steps_change_no_bit(command, whole, tmp_path):
    out, rng = tmp_path / "run", random.Random(0)
    for kill in range(1, KILLS + 1):
        # Within the next few steps, in a save or between two.
        target = kill * STEPS // (KILLS + 2) + rng.randint(0, 2)
        ended = run_until([VISTUNE, *command, "--out", str(out)], out, lambda n, t=target: n >= t)
        assert not ended
    told = run([VISTUNE, *command, "--out", str(out)])
    assert "goes on with step" in told
    assert losses_of(out) == losses_of(whole)
    ours, theirs = weights_of(out), weights_of(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    left = {path.name for path in (out / "instruct").iterdir()}
    assert left == {"metrics.jsonl", "set_aside.jsonl", "checkpoint"}


@pytest.mark.parametrize("first_on", [1, 2])
def test_a_run_goes_on_with_other_processes(command, whole, tmp_path, first_on):
    """Two processes compute what one does; saved on the ones, resumed on the others."""
    out = tmp_path / "run"
    two = [TORCHRUN, "--standalone", "--nproc-per-node", "2", "--no-python", VISTUNE]
    commands = {1: [VISTUNE, *command, "--out", str(out)], 2: [*two, *command, "--out", str(out)]}
    assert not run_until(commands[first_on], out, lambda n: n >= STEPS // 2)
    run(commands[3 - first_on])
    expected = losses_of(whole)
    assert [row[0] for row in losses_of(out)] == [row[0] for row in expected]
    for (step, loss, norm), (_, their_loss, their_norm) in zip(losses_of(out), expected, strict=True):
        assert loss == pytest.approx(their_loss, rel=1e-5), step
        assert norm == pytest.approx(their_norm, rel=1e-3), step
    for name, weight in weights_of(whole).items():
        torch.testing.assert_close(weights_of(out)[name], weight, rtol=1e-3, atol=1e-4)
