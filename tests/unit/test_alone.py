"""Dialogues that are trained on alone, in padded batches: the same loss and gradients as packed ones."""

from __future__ import annotations

import numpy as np
import pytest

from tests.parity.test_packing import (
    GROUPS,
    IMAGE,
    LENGTHS,
    PREFIXES,
    SAMPLES,
    alone,
    assert_same,
    learn,
    pixels_of,
)
from tests.tiny import tiny_checkpoint
from tests.unit.test_loader import Records, loader_of
from vistune.data.batch import picture_order, to_padded_batch
from vistune.data.pack import Tree, flatten, make_rows, plant
from vistune.train.plan.dry_run import padding_avoided


def trees_of(lengths: list[int]) -> list[Tree]:
    return [Tree((number,), 0, (length,)) for number, length in enumerate(lengths)]


def test_padded_batches_hold_like_lengths_and_no_more_than_there_is_room_for() -> None:
    rows = make_rows("padded", trees_of([3, 30, 8, 9, 2, 7]), 20)
    assert [[tree.tokens for tree in row] for row in rows] == [[30], [9, 8], [7, 3], [2]]
    assert [len(row) for row in make_rows("single", trees_of([3, 30, 8]), 1000)] == [1, 1, 1]
    assert make_rows("padded", trees_of([5]), 20, 2) == [[Tree((0,), 0, (5,))], []]


def test_rows_as_padded_tensors_by_hand() -> None:
    trees = [Tree((n,), 0, (len(SAMPLES[n].ids),)) for n in (2, 5)]
    row = flatten(trees, [[SAMPLES[2]], [SAMPLES[5]]], IMAGE)
    batch = to_padded_batch(row, image_token=0)
    longest = max(len(SAMPLES[2].ids), len(SAMPLES[5].ids))
    assert batch.ids.shape == batch.mask.shape == batch.positions.shape == (2, longest)
    for number, sample in enumerate((SAMPLES[2], SAMPLES[5])):
        length = len(sample.ids)
        assert batch.ids[number].tolist() == sample.ids + [1] * (longest - length)
        assert batch.mask[number].tolist() == [1] * length + [0] * (longest - length)
    following = batch.ids.flatten()[batch.sources + 1]
    assert following.tolist() == batch.targets.tolist()


@pytest.mark.parametrize("how", ["padded", "single"])
def test_alone_equals_packed(how: str, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_checkpoint(tokenizer).model
    model.set_trained({"connector", "llm"})
    packed = learn(model.train(), alone())
    rows = make_rows(how, [tree for (tree,) in alone()], 40)
    assert len(rows) == (len(SAMPLES) if how == "single" else 3)

    def batch_of(trees: list[Tree]):
        row = flatten(trees, [[SAMPLES[n] for n in tree.samples] for tree in trees], IMAGE)
        names, order = picture_order(row.pictures)
        batch = to_padded_batch(row, IMAGE)
        return type(batch)(**{**vars(batch), "pixels": pixels_of(names), "picture_order": order})

    monkeypatch.setattr("tests.parity.test_packing.batch_of", batch_of)
    assert_same(learn(model, rows), packed)


def test_a_dry_run_counts_the_padding_that_the_loader_makes() -> None:
    records = Records()
    loader = loader_of(records, room=30, batch_size=6, rows="padded")
    batches = [batch for step in range(2) for batch in loader.prepare(step)]
    assert all(batch.mask is not None and batch.tokens <= 30 for batch in batches)
    steps = [loader._order.records(step) for step in range(2)]
    found = padding_avoided(
        records.lengths, records.prefixes, np.arange(len(records)), 6, steps, 30, rows="padded"
    )
    assert found.packed == sum(batch.tokens for batch in batches) > found.samples
    assert sum(len(batch.targets) for batch in batches) == records.supervised.sum()


def test_nothing_is_shared_in_padded_batches() -> None:
    assert max(len(tree.samples) for tree in plant(range(8), LENGTHS, PREFIXES, GROUPS)) > 1
    records = Records()
    for batch in loader_of(records, rows="padded").prepare(0):
        assert all(not tree.prefix for tree in batch.trees) and batch.ids.shape[0] == batch.samples
