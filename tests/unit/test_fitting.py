"""What ``run.fit`` chooses for models of real sizes."""

import pytest
import torch

from tests.unit.test_cost import llava
from vistune.recipe import load_recipe
from vistune.train.plan.estimate import GIB, estimate_stage
from vistune.train.plan.fitting import fit_run

BF16 = torch.bfloat16


@pytest.fixture(scope="module")
def models():
    return {billions: llava(billions, 336, "mlp2x_gelu") for billions in (7, 13)}


def fitted(models, billions, stage, devices, memory, *overrides, kind="cuda"):
    recipe = load_recipe(f"llava-1.5-{billions}b", list(overrides))
    longest, memory = recipe.model.max_length, memory * GIB
    run = fit_run(models[billions], recipe.stages[stage], recipe.run, BF16, devices, memory, kind, longest)
    return run, estimate_stage(models[billions], recipe.stages[stage], run, BF16, devices).fits(memory)


@pytest.mark.parametrize("billions", [7, 13])
@pytest.mark.parametrize("stage", ["align", "instruct"])
def test_on_eight_gpus_of_80_gb_nothing_is_computed_twice(models, billions, stage):
    run, fits = fitted(models, billions, stage, 8, 80)
    assert fits and run.compile and not run.checkpoint_activations and run.row_tokens >= 4096


def test_more_memory_makes_larger_rows_and_less_makes_smaller_ones_before_it_computes_again(models):
    rows = [fitted(models, 7, "instruct", 8, memory)[0] for memory in (141, 80, 60, 40)]
    assert [run.row_tokens for run in rows] == [16384, 8192, 4096, 2048]
    assert not any(run.checkpoint_activations for run in rows)
    run, fits = fitted(models, 13, "instruct", 8, 40)
    assert fits and run.checkpoint_activations


def test_where_nothing_fits_it_is_what_takes_the_least(models):
    run, fits = fitted(models, 7, "instruct", 1, 80)
    assert not fits and run.checkpoint_activations and run.row_tokens == 2048


def test_what_the_recipe_gives_stays(models):
    run, _ = fitted(models, 7, "instruct", 8, 80, "run.row_tokens=3000", "run.compile=false")
    assert (run.row_tokens, run.compile, run.checkpoint_activations) == (3000, False, False)
    run, _ = fitted(models, 7, "instruct", 8, 80, "run.checkpoint_activations=true")
    assert run.checkpoint_activations and run.row_tokens == 16384
    run, _ = fitted(models, 7, "instruct", 8, 80, "run.fit=false")
    assert run == load_recipe("llava-1.5-7b", ["run.fit=false"]).run


def test_no_row_is_shorter_than_the_longest_sample(models):
    run, _ = fitted(models, 7, "instruct", 1, 24, "model.max_length=4096")
    assert run.row_tokens == 4096
    run, _ = fitted(models, 7, "instruct", 1, 24, "model.max_length=50000")
    assert run.row_tokens == 50000


def test_a_cpu_gains_nothing_by_longer_rows_or_compiling(models):
    run, _ = fitted(models, 7, "align", 1, 500, kind="cpu")
    assert (run.row_tokens, run.compile, run.checkpoint_activations) == (4096, False, False)
