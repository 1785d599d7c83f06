"""Which samples a step learns from: each once an epoch, groups together, whatever step is asked for."""

import numpy as np
import pytest

from vistune.data.mix import Mix
from vistune.recipe import StageRecipe
from vistune.train.order import Order, count_steps, mixed_seed

GROUPS = np.array([0, 1, 0, 2, 2, 0, 3, 4, 5, 4, 6])


def whole(records):
    return Mix([np.arange(records)], [1])


def epoch_of(order, number):
    first = number * order.steps_per_epoch
    return [order.records(step).tolist() for step in range(first, first + order.steps_per_epoch)]


def flat(batches):
    return [record for batch in batches for record in batch]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 4, 20])
def test_every_epoch_holds_every_record_once_in_full_batches(share, batch_size):
    order = Order(whole(11), GROUPS, batch_size, 0, share)
    for number in range(3):
        batches = epoch_of(order, number)
        assert sorted(flat(batches)) == list(range(11))
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


def test_groups_stay_together():
    records = flat(epoch_of(Order(whole(11), GROUPS, 4, 3, share=True), 0))
    groups = GROUPS[records].tolist()
    assert [g for n, g in enumerate(groups) if n == 0 or groups[n - 1] != g] == list(dict.fromkeys(groups))


@pytest.mark.parametrize("seed", range(3))
def test_every_tenth_of_an_epoch_is_composed_as_the_whole(seed):
    """Pictures of one to four dialogues, as in LLaVA-Instruct; packed tokens a step must not drift either."""
    rng = np.random.default_rng(7)
    sizes = rng.choice([1, 2, 3, 4], 8000, p=[0.3, 0.4, 0.2, 0.1])
    groups = np.repeat(np.arange(len(sizes)), sizes)
    records = flat(epoch_of(Order(whole(len(groups)), groups, 32, seed, share=True), 0))
    size = sizes[groups[records]]
    tenths = np.array_split(np.arange(len(records)), 10)
    alone = np.mean(size == 1)
    # Samples come in groups, so that a share varies about as if there were a group's share of the samples.
    bound = 4 * np.sqrt(alone * (1 - alone) / (len(records) / 10 / sizes.mean()))
    assert [float(np.mean(size[tenth] == 1)) for tenth in tenths] == pytest.approx([alone] * 10, abs=bound)
    tokens = 50 + 256 / size  # of a sample, its share of a prefix of 256 included
    halves = [float(tokens[: len(tokens) // 2].mean()), float(tokens[len(tokens) // 2 :].mean())]
    assert halves == pytest.approx([float(tokens.mean())] * 2, rel=0.02)


def test_without_sharing_they_do_not():
    groups = np.arange(200) // 4
    records = flat(epoch_of(Order(whole(200), groups, 4, 3, share=False), 0))
    neighbours = np.mean(groups[records][1:] == groups[records][:-1])
    assert neighbours < 0.1


def test_a_record_that_is_seen_twice_in_an_epoch_is_not_seen_twice_at_once():
    selection = Mix([np.arange(100)], [2])
    batches = epoch_of(Order(selection, np.arange(100) // 2, 4, 0, share=True), 0)
    assert sorted(flat(batches)) == sorted(2 * list(range(100)))
    assert np.mean([len(set(batch)) == len(batch) for batch in batches]) > 0.9


def test_any_step_can_be_asked_for_in_any_order():
    one, other = (Order(whole(11), GROUPS, 3, 5, share=True) for _ in range(2))
    forward = [one.records(step).tolist() for step in range(12)]
    backward = [other.records(step).tolist() for step in reversed(range(12))]
    assert forward == backward[::-1]


def test_epochs_and_seeds_have_orders_of_their_own():
    order = Order(whole(11), GROUPS, 4, 0, share=True)
    assert epoch_of(order, 0) != epoch_of(order, 1)
    assert epoch_of(order, 0) != epoch_of(Order(whole(11), GROUPS, 4, 1, share=True), 0)


def test_steps_follow_epochs_and_max_steps():
    stage = StageRecipe(trains=("llm",), data={"a": 1}, learning_rate=1.0, batch_size=4)
    assert count_steps(stage, 9) == 3
    assert count_steps(stage.model_copy(update={"epochs": 2.5}), 9) == 8
    assert count_steps(stage.model_copy(update={"max_steps": 2}), 900) == 2


@pytest.mark.parametrize("steps", [0, 2, 3, 8])
def test_how_often_records_are_shown_is_what_the_steps_show(steps):
    order = Order(Mix([np.arange(6), np.arange(6, 11)], [0.5, 1.4]), GROUPS, 4, 0, share=True)
    seen = flat(order.records(step).tolist() for step in range(steps))
    assert order.times_shown(steps).tolist() == [seen.count(record) for record in range(11)]


def test_seeds_of_steps_are_all_different_and_fit_into_63_bits():
    seeds = {
        mixed_seed(seed, step, 2, rank) for seed in (0, 1, 2**63 - 1) for step in range(50) for rank in (0, 1)
    }
    assert len(seeds) == 300 and all(0 <= seed < 2**63 for seed in seeds)
