"""One optimizer step: what it learns from, what it normalises by, and when it refuses."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tiny import IMAGE_SIZE, tiny_checkpoint
from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import to_batch
from vistune.data.pack import Tree, flatten
from vistune.errors import VistuneError
from vistune.recipe import StageRecipe
from vistune.template import Encoded
from vistune.train.optimizers import make_optimizer
from vistune.train.parallel import Team
from vistune.train.stage import optimizer_step, schedule

IMAGE = 2
ALONE = Team(0, 1, torch.device("cpu"), distributed=False)


@pytest.fixture
def model(tokenizer):
    return tiny_checkpoint(tokenizer).model


def samples(count, answers=(3,)):
    """Each a picture of 4 patches, five words, and an answer that is trained on."""
    rng = np.random.default_rng(0)
    made = []
    for number in range(count):
        words = rng.integers(3, 200, 6 + answers[number % len(answers)]).tolist()
        ids = [words[0], *[IMAGE] * 4, *words[1:]]
        labels = [IGNORE_INDEX] * 10 + ids[10:]
        made.append(Encoded(ids, labels, [f"{number}.jpg"]))
    return made


def batch_of(chosen, first=0):
    trees = [Tree((n,), 0, (len(sample.ids),)) for n, sample in enumerate(chosen)]
    pixels = torch.stack(
        [
            torch.randn(
                3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(int(s.pictures[0][0]))
            )
            for s in chosen
        ]
    )
    return replace(to_batch(flatten(trees, [[s] for s in chosen], IMAGE)), pixels=pixels)


def recipe(**settings):
    defaults = {"trains": ("connector", "llm"), "data": {"x": 1}, "learning_rate": 1e-3, "batch_size": 4}
    return StageRecipe.model_validate({**defaults, **settings})


def step(model, batches, stage=None, factor=1.0):
    stage = stage or recipe()
    model.set_trained(set(stage.trains))
    return optimizer_step(model, make_optimizer(model, stage), batches, factor, 1e9, ALONE)


def test_micro_batches_do_not_change_the_step(tokenizer):
    whole, split = tiny_checkpoint(tokenizer).model, tiny_checkpoint(tokenizer).model
    some = samples(5, answers=(1, 3, 4))
    together = step(whole, [batch_of(some)])
    apart = step(split, [batch_of(some[:1]), batch_of(some[1:])])
    assert apart.loss == pytest.approx(together.loss, rel=1e-6)
    assert apart.gradient_norm == pytest.approx(together.gradient_norm, rel=1e-5)
    assert apart.supervised == together.supervised == 1 + 3 + 4 + 1 + 3
    assert (apart.samples, apart.tokens) == (together.samples, together.tokens) == (5, 62)
    for ours, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("trained", [("connector",), ("connector", "llm")])
def test_a_step_changes_only_what_the_stage_trains(model, trained):
    before = {name: [p.clone() for p in part.parameters()] for name, part in model.parts().items()}
    step(model, [batch_of(samples(2))], recipe(trains=trained, learning_rate=1e-2))
    changed = {
        name
        for name, part in model.parts().items()
        if any(not torch.equal(a, b) for a, b in zip(before[name], part.parameters(), strict=True))
    }
    assert changed == set(trained)


def test_each_part_has_its_own_rate_and_biases_do_not_decay(model):
    stage = recipe(learning_rate={"connector": 0.5, "llm": 0.25}, weight_decay=0.1)
    model.set_trained({"connector", "llm"})
    optimizer = make_optimizer(model, stage)
    groups = [(g["part"], g["peak"], g["weight_decay"], g["params"][0].ndim) for g in optimizer.param_groups]
    assert groups == [
        ("connector", 0.5, 0.1, 2),
        ("connector", 0.5, 0.0, 1),
        ("llm", 0.25, 0.1, 2),
        ("llm", 0.25, 0.0, 1),
    ]
    optimizer_step(model, optimizer, [batch_of(samples(2))], 0.5, 1.0, ALONE)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25, 0.125, 0.125]


def test_a_loss_that_is_not_finite_changes_nothing(model):
    batch = batch_of(samples(2))
    batch.pixels[0, 0, 0, 0] = float("nan")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(VistuneError, match=r"not finite.*learning_rate"):
        step(model, [batch])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_batch_without_supervised_tokens_is_an_error(model):
    masked = [Encoded(s.ids, [IGNORE_INDEX] * len(s.ids), s.pictures) for s in samples(2)]
    with pytest.raises(VistuneError, match="every label is masked"):
        step(model, [batch_of(masked)])


def test_a_number_of_image_tokens_that_does_not_fit_is_an_error(model):
    batch = batch_of(samples(2))
    batch = replace(batch, patches=batch.patches[1:])
    with pytest.raises(ValueError, match="7 image tokens for pictures of 8 patches"):
        step(model, [batch])


def test_the_schedule_warms_up_and_ends_near_zero():
    factors = [schedule(step, 100, 0.1) for step in range(100)]
    assert factors[:10] == sorted(factors[:10]) and factors[0] == pytest.approx(1 / 11)
    assert factors[10] == 1.0
    assert factors[10:] == sorted(factors[10:], reverse=True) and factors[-1] < 0.001
    assert schedule(55, 100, 0.1) == pytest.approx(0.5)
