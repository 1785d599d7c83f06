"""Small things that many tests share: a world of a few scenes, a tokenizer, real photographs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from vistune.data.sources.annotated import Annotations
from vistune.data.sources.coco import load_coco
from vistune.data.world.write import write_world
from vistune.starter.tokenizer import train_tokenizer

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

# Tests of minutes, or whose outcome hangs on how busy the machine is.
slow_tests = "VISTUNE_SLOW" in os.environ
slow = pytest.mark.skipif(not slow_tests, reason="slow: set VISTUNE_SLOW to run it")

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
