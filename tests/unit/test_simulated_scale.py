"""The simulated step of several processes, on a small model: against arithmetic, and the dry run's estimate.

It runs in a process of its own: a fake process group would be met by other tests.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest

from vistune.recipe import load_recipe

pytest.importorskip("torch")

from benchmarks.simulated_scale import ROWS, TOLERANCE, Shapes, compare

PROCESSES, WIDTH, INNER, LAYERS, VOCABULARY = 8, 512, 1408, 6, 2048
PATCHES, SEEN = 16, 64  # of a picture, and their width
SHAPES = Shapes(
    "mlp2x_gelu",
    {
        "hidden_size": SEEN,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "patch_size": 14,
        "image_size": 56,
    },
    {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
    },
)
CONNECTOR = SEEN * WIDTH + WIDTH + WIDTH * WIDTH + WIDTH
LAYER = 4 * WIDTH * WIDTH + 3 * WIDTH * INNER + 2 * WIDTH
REST = 2 * VOCABULARY * WIDTH + WIDTH  # embeddings, the head, the last norm
LLM = LAYERS * LAYER + REST
TENSORS = 4 + LAYERS * 9 + 3  # that instruct trains


def work(stage: str, size: int, *changes: str) -> dict[str, Any]:
    recipe = load_recipe("llava-1.5-7b", ["run.row_tokens=1024", "run.checkpoint_activations=true", *changes])
    return compare("small", recipe, stage, SHAPES, size)


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(scope="module")
def figures(pool):
    return {stage: pool.submit(work, stage, PROCESSES).result() for stage in ("align", "instruct")}


def vision_parameters() -> int:
    """One process's, at most: rows are dealt out, and seventeen positions are no multiple of eight."""
    layer = 4 * (SEEN * SEEN + SEEN) + 2 * SEEN * 128 + SEEN + 128 + 4 * SEEN
    patch, positions, norms = 3 * 14 * 14 * SEEN, PATCHES + 1, 4 * SEEN
    spread = (SEEN + patch + norms + 3 * layer) // PROCESSES
    return spread + -(-positions // PROCESSES) * SEEN


def test_each_process_holds_its_share_to_the_byte(figures):
    """Trained weights in float32 with a gradient and two moments each; frozen ones in bfloat16."""
    vision = 2 * vision_parameters()
    for stage, trained, frozen in (("align", CONNECTOR, LLM), ("instruct", CONNECTOR + LLM, 0)):
        held, share = figures[stage]["held_by_first"], trained // PROCESSES
        assert held["parameters"] == 4 * share + 2 * frozen // PROCESSES + vision
        assert held["gradients"] == 4 * share
        counters = held["optimizer"] - 8 * share  # AdamW counts each weight's steps in float32
        assert counters == 4 * (4 if stage == "align" else TENSORS)


def test_the_last_process_has_no_row_of_the_positions(figures):
    for found in figures.values():
        first, last = found["held_by_first"], found["held_by_last"]
        assert first["parameters"] - last["parameters"] == 2 * 3 * SEEN
        assert {**first, "parameters": 0} == {**last, "parameters": 0}


def test_the_estimate_is_within_its_tolerance(figures):
    for found in figures.values():
        assert abs(found["difference"]["total"]) < TOLERANCE
        assert abs(found["difference"]["communicated"]) < TOLERANCE


def test_gradients_are_communicated_once_where_there_is_room(figures):
    """Weights of each layer are gathered twice a row, in bfloat16, and gradients summed in float32."""
    found = figures["instruct"]
    assert found["gradients_communicated"] == "once a step"
    gathered = 2 * (2 * LAYERS * LAYER + REST + CONNECTOR + PROCESSES * vision_parameters())
    summed = 4 * (LLM + CONNECTOR)
    numbers = found["simulated"]["communicated"] - ROWS * gathered - summed
    assert numbers == 4 * 8 + 8 + 4 * TENSORS  # counts, the loss, the norm of each gradient
