"""The house: imports point left only, and the light part of it knows no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "src" / "vistune"
LAYERS = ("base", "page", "data", "model", "train", "evaluate", "starter", "serve", "quickstart", "cli")
ROOMS = {"page", "data", "model", "train", "evaluate", "starter", "serve", "quickstart"}
TOP = {"cli"}


def layer_of(parts):
    """The layer of a module, from its path below ``vistune``."""
    if parts and (parts[0] in ROOMS or parts[0] in TOP):
        return parts[0]
    return "base"


def modules():
    return sorted(SOURCE.rglob("*.py"))


def imported(path):
    """Every vistune module that a file imports, at the top or late."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1:] for alias in node.names if alias.name.startswith("vistune"))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vistune":
            yield (node.module or "").split(".")[1:]
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{path}: relative import"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_left(path):
    parts = path.relative_to(SOURCE).with_suffix("").parts
    mine = LAYERS.index(layer_of(parts))
    for target in imported(path):
        assert LAYERS.index(layer_of(target)) <= mine, f"imports {'.'.join(target)}"


def test_the_walk_sees_every_room():
    assert {layer_of(path.relative_to(SOURCE).with_suffix("").parts) for path in modules()} == set(LAYERS)


LIGHT = (
    "vistune.cli",
    "vistune.quickstart",
    "vistune.recipe",
    "vistune.conversation",
    "vistune.template",
    "vistune.data.audit.run",
    "vistune.evaluate.benches.llava_bench",
    "vistune.evaluate.compare.run",
    "vistune.evaluate.ensemble",
    "vistune.evaluate.judge.command",
    "vistune.evaluate.report.page",
    "vistune.evaluate.score",
    "vistune.data.corpus",
    "vistune.data.check.run",
    "vistune.data.sources.coco",
    "vistune.data.generation.command",
    "vistune.data.curate.run",
    "vistune.data.generation.generate",
    "vistune.data.teachers.scripted",
    "vistune.data.world.write",
)


def test_light_modules_do_not_import_torch():
    code = (
        f"import sys, {', '.join(LIGHT)}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
