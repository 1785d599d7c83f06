"""The serving benchmark, very small: every part runs, and finds no fault."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import slow

pytestmark = slow
SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "serve.py"
NEEDED = ("fastapi", "uvicorn", "prometheus_client", "httpx")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs vistune[serve]: {', '.join(missing)} cannot be imported")
    figures = tmp_path_factory.mktemp("serve") / "figures.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--quick", "--json", figures],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(figures.read_text())


def test_every_key_is_there(found):
    keys = ("second_turn_ttft_ratio", "throughput_vs_sequential", "vs_transformers_serve", "memory_growth")
    assert all(isinstance(found[key], float) for key in keys)
    assert found["quick"] is True


def test_answers_are_the_same_whoever_is_asked(found):
    assert found["same_answers"] is True
    for model in found["models"].values():
        assert model["throughput"]["same_as_generate"] == model["transformers"]["same_answers"] == 1


def test_the_load_leaves_nothing_behind(found):
    assert found["good_request_errors"] == 0
    assert found["cancelled_freed"] is True
    for model in found["models"].values():
        load = model["load"]
        assert load["good_answers"] > 10 and load["hung_up"] > 0 and sum(load["rubbish"].values()) > 0
        assert load["rubbish_misanswered"] == 0, load["examples_of_errors"]
