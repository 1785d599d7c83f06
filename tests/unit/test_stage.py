"""One optimizer step: what it learns from, what it normalises by, and when it refuses."""

import pytest
import torch

from tests.tiny import IMAGE_SIZE, tiny_checkpoint
from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import Batch
from vistune.errors import VistuneError
from vistune.train.stage import learning_rate, loss_sum, make_optimizer, optimizer_step

VOCABULARY, IMAGE = 300, 2


@pytest.fixture
def model(tokenizer):
    return tiny_checkpoint(tokenizer).model


def make_batch(rows, seed=0, supervised=(6, 9)):
    """Rows of one picture (4 patches) and ten tokens; answers between the two positions."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 200, (rows, 14), generator=generator)
    ids[:, 1:5] = IMAGE
    labels = torch.full_like(ids, IGNORE_INDEX)
    labels[:, supervised[0] : supervised[1]] = ids[:, supervised[0] : supervised[1]]
    pixels = torch.randn(rows, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
    return Batch(ids, labels, torch.ones_like(ids), pixels)


def part_of(batch, rows):
    return Batch(batch.ids[rows], batch.labels[rows], batch.attention_mask[rows], batch.pixels[rows])


def step(model, micro_batches, rate=1e-3):
    model.set_trained({"connector", "llm"})
    optimizer = make_optimizer(model, rate, 0.0)
    return optimizer_step(model, optimizer, micro_batches, rate, 1e9, torch.float32)


def test_loss_is_the_cross_entropy_of_the_answer_alone(model):
    batch = make_batch(2)
    ids = torch.ones_like(batch.ids, dtype=torch.bool)
    logits = model(batch.ids, batch.attention_mask, batch.pixels, ids).view(2, 14, -1)
    by_hand = sum(
        -logits[row, place - 1].log_softmax(-1)[batch.ids[row, place]]
        for row in (0, 1)
        for place in (6, 7, 8)
    )
    torch.testing.assert_close(loss_sum(model, batch), by_hand)


def test_micro_batches_do_not_change_the_step(tokenizer):
    whole, split = tiny_checkpoint(tokenizer).model, tiny_checkpoint(tokenizer).model
    batch = make_batch(5)
    batch.labels[0, 6:8] = IGNORE_INDEX  # rows with different numbers of supervised tokens
    together = step(whole, [batch])
    apart = step(split, [part_of(batch, slice(0, 1)), part_of(batch, slice(1, 5))])
    assert apart.loss == pytest.approx(together.loss, rel=1e-6)
    assert apart.gradient_norm == pytest.approx(together.gradient_norm, rel=1e-5)
    assert apart.supervised == together.supervised == 13
    for ours, theirs in zip(split.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("trained", [{"connector"}, {"connector", "llm"}])
def test_a_step_changes_only_what_the_stage_trains(model, trained):
    before = {name: [p.clone() for p in part.parameters()] for name, part in model.parts().items()}
    counts = model.set_trained(trained)
    optimizer_step(model, make_optimizer(model, 1e-2, 0.0), [make_batch(2)], 1e-2, 1.0, torch.float32)
    changed = {
        name
        for name, part in model.parts().items()
        if any(not torch.equal(a, b) for a, b in zip(before[name], part.parameters(), strict=True))
    }
    assert changed == trained == {name for name, count in counts.items() if count}


def test_a_loss_that_is_not_finite_changes_nothing(model):
    batch = make_batch(2)
    batch.pixels[0, 0, 0, 0] = float("nan")
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(VistuneError, match="not finite"):
        step(model, [batch])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_batch_without_supervised_tokens_is_an_error(model):
    with pytest.raises(VistuneError, match="every label is masked"):
        step(model, [make_batch(2, supervised=(6, 6))])


def test_a_number_of_image_tokens_that_does_not_fit_is_an_error(model):
    batch = make_batch(2)
    batch.ids[0, 1] = 5
    with pytest.raises(ValueError, match="7 image tokens for 2 pictures of 4 patches"):
        step(model, [batch])


def test_the_schedule_warms_up_and_ends_near_zero():
    rates = [learning_rate(step, 100, 1.0, 0.1) for step in range(100)]
    assert rates[:10] == sorted(rates[:10]) and rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True) and rates[-1] < 0.001
    assert learning_rate(55, 100, 1.0, 0.1) == pytest.approx(0.5)
