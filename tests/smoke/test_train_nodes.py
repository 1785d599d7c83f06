"""Two ``torchrun``, as on two nodes, make one run."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import yaml

from tests.tiny import save_tiny_parts
from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.teachers.scripted import OfflineTeacher

VISTUNE = str(Path(sys.executable).with_name("vistune"))
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))


def test_two_nodes_make_one_run(world_annotations, tiny_world, tokenizer, tmp_path):
    data = tmp_path / "data"
    generate(
        world_annotations, OfflineTeacher(world_annotations.categories), data, GenerationSettings(seed=0)
    )
    stage = {
        "trains": ["connector", "llm"],
        "data": {"conversation.json": 1},
        "learning_rate": 1e-3,
        "batch_size": 4,
        "max_steps": 3,
        "epochs": 9,
    }
    recipe = {
        "model": {**save_tiny_parts(tmp_path, tokenizer), "template": "short", "max_length": 512},
        "stages": {"instruct": stage},
        "run": {"save_steps": 2},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    node = [TORCHRUN, "--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-endpoint"]
    node += [f"127.0.0.1:{port}", "--no-python", VISTUNE, "train", str(tmp_path / "recipe.yaml")]
    node += ["--data", str(data), "--images", str(tiny_world / "images"), "--out", str(tmp_path / "run")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(node, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    ends = [node.communicate(timeout=300) for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], ends
    checkpoint = tmp_path / "run" / "instruct" / "checkpoint"
    assert sorted(out.strip() for out, _ in ends) == ["", str(checkpoint)]
    assert (checkpoint / "model.safetensors").is_file()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["starts"][0]["machine"]["processes"] == 2
