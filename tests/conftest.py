"""Small things that many tests share: a world of a few scenes, a tokenizer, real photographs."""

from __future__ import annotations

import os

# One thread computes, here and in the processes that tests begin: models are tiny, and on a busy machine
# threads that share small products wait for each other many times as long as they compute.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Generator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from vistune.data.generation.generate import generate
from vistune.data.generation.plan import GenerationSettings
from vistune.data.sources.annotated import Annotations
from vistune.data.sources.coco import load_coco
from vistune.data.teachers.scripted import OfflineTeacher
from vistune.data.world.write import write_world
from vistune.starter.tokenizer import train_tokenizer

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Tests of minutes, or whose outcome hangs on how busy the machine is.
slow_tests = "VISTUNE_SLOW" in os.environ
slow = pytest.mark.skipif(not slow_tests, reason="slow: set VISTUNE_SLOW to run it")

# For tests that begin another process which needs torch; all others are found out by themselves, below.
needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="needs torch, which is not installed")
NOT_HERE = {"torch", "peft"} if find_spec("torch") is None else set()


def _lacks(error: BaseException | None) -> str | None:
    """Return the package of ``NOT_HERE`` whose absence led to ``error``."""
    while error is not None:
        package = (getattr(error, "name", None) or "").split(".")[0]
        if isinstance(error, ModuleNotFoundError) and package in NOT_HERE:
            return package
        if isinstance(error, ImportError) and NOT_HERE and "requires the PyTorch library" in str(error):
            return "torch"  # what transformers says in its place
        error = error.__cause__ or error.__context__
    return None


# Without torch, whatever meets its absence is skipped and listed: no list of such tests is kept by hand.
# That what should do without torch does is the matter of test_imports.py, which looks from another process.
@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    call = getattr(report, "call", None)
    package = _lacks(call.excinfo.value) if call and call.excinfo else None
    if report.failed and package:
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: needs {package}, which is not installed")  # type: ignore[assignment]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    package = _lacks(call.excinfo.value) if call.excinfo else None
    if report.failed and package:
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"Skipped: needs {package}, which is not installed")
    return report


SHARED_DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
WORLD_TRAIN, WORLD_VAL, WORLD_SEED = 8, 3, 7


@pytest.fixture(scope="session")
def tiny_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight training scenes and three validation scenes, in COCO's format."""
    folder = tmp_path_factory.mktemp("world")
    write_world(folder, WORLD_TRAIN, WORLD_VAL, WORLD_SEED, workers=1)
    return folder


@pytest.fixture(scope="session")
def world_annotations(tiny_world: Path) -> Annotations:
    return load_coco(
        tiny_world / "captions_train.json", tiny_world / "instances_train.json", tiny_world / "images"
    )


@pytest.fixture(scope="session")
def coco_mini() -> Path:
    """Eighty photographs of COCO with their official annotations."""
    folder = SHARED_DATA / "coco-mini"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/coco-mini, which is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def coco_mini_annotations(coco_mini: Path) -> Annotations:
    annotations = coco_mini / "annotations"
    return load_coco(
        annotations / "captions_train2017.json",
        annotations / "instances_train2017.json",
        coco_mini / "train2017",
    )


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A tokenizer that has learned a few words and writes everything else in bytes."""
    sentences = [
        "USER: What is in the picture? ASSISTANT: A dog and two cats.",
        "Human: How many dogs are there?###Assistant: Two.###",
        "The dog is on the left of the picture.",
    ]
    return train_tokenizer(sentences * 3, vocabulary=320)


# What several tests train on: instruction data of the tiny world, its pictures, and tiny random parts.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, world_annotations: Annotations) -> Path:
    folder = tmp_path_factory.mktemp("data") / "train"
    teacher = OfflineTeacher(world_annotations.categories)
    generate(world_annotations, teacher, folder, GenerationSettings(seed=0, picture="first"))
    return folder


@pytest.fixture
def images(tiny_world: Path) -> Path:
    return tiny_world / "images"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> dict[str, str]:
    from tests.tiny import save_tiny_parts  # needs torch, which other tests do without

    return save_tiny_parts(tmp_path_factory.mktemp("parts"), tokenizer)
