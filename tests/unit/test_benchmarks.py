"""Every benchmark starts, both ways: their figures stand in the docs, and nobody runs all of them often."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_imported(name):
    importlib.import_module(f"benchmarks.{name}")


def test_it_can_be_run_by_its_path():
    """Its folder is then searched first, and is no package."""
    for name in ("save", "train_step", "simulated_scale", "optimizers"):
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--help"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0 and "usage:" in done.stdout, done.stderr[-2000:]
