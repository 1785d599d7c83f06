"""Trees and rows, on an example that can be followed by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import picture_order, to_batch
from vistune.data.pack import Tree, fill_rows, flatten, plant, shared_length
from vistune.template import Encoded

IMG, X = 9, IGNORE_INDEX  # image token, not trained on

# Two dialogues on a.jpg, whose prefix is "1 IMG IMG"; the second has a picture of its own in a later turn.
FIRST = Encoded([1, IMG, IMG, 2, 3, 4], [X, X, X, X, 3, 4], ["a.jpg"])
SECOND = Encoded([1, IMG, IMG, 5, 6, IMG, IMG, 7], [X, X, X, X, 6, X, X, 7], ["a.jpg", "b.jpg"])
CAPTION = Encoded([1, IMG, IMG, 8], [X, X, X, 8], ["a.jpg"])  # the answer follows the picture at once
TEXT = Encoded([1, 2, 3], [X, X, 3], [])
SAMPLES = (FIRST, SECOND, CAPTION, TEXT)


def test_what_may_be_shared_ends_with_the_last_patch_before_anything_is_trained_on():
    lengths = [
        shared_length(np.array(s.ids), np.array(s.labels), IMG) for s in (FIRST, SECOND, CAPTION, TEXT)
    ]
    assert lengths == [3, 3, 3, 0]


def test_neighbours_of_one_group_become_a_tree():
    trees = plant([0, 1, 2, 3], np.array([6, 8, 4, 3]), np.array([3, 3, 3, 0]), np.array([5, 5, 5, 6]))
    assert trees == [Tree((0, 1, 2), 3, (3, 5, 1)), Tree((3,), 0, (3,))]
    assert [tree.tokens for tree in trees] == [12, 3]


def test_a_row_spelled_out():
    trees = [Tree((0, 1, 2), 3, (3, 5, 1)), Tree((3,), 0, (3,))]
    row = flatten(trees, [[FIRST, SECOND, CAPTION], [TEXT]], IMG)
    assert row.ids.tolist() == [1, IMG, IMG, 2, 3, 4, 5, 6, IMG, IMG, 7, 8, 1, 2, 3]
    assert row.positions.tolist() == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 3, 0, 1, 2]
    # 3 is predicted at 2, 4 at 3; 6 at 5, 7 at the picture before it; 8 at the prefix's last patch; 3 at 2
    assert row.targets.tolist() == [3, 4, 6, 7, 8, 3]
    assert row.sources.tolist() == [3, 4, 6, 9, 2, 13]
    assert row.pictures == ["a.jpg", "b.jpg"]


def test_a_batch_is_the_row_as_tensors():
    batch = to_batch(flatten([Tree((3,), 0, (3,))], [[TEXT]], IMG))
    assert batch.ids.tolist() == [[1, 2, 3, 3]] and batch.ids.dtype == torch.long  # filled up to 4
    assert batch.positions.tolist() == [[0, 1, 2, 0]]
    assert (batch.tokens, batch.samples, batch.pixels) == (3, 1, None)
    assert batch.to(torch.device("meta")).sources.device.type == "meta"


def test_a_picture_in_several_places_is_loaded_once():
    names, order = picture_order(["b", "a", "b"])
    assert names == ["b", "a"] and order.tolist() == [0, 1, 0]
    assert picture_order(["b", "a"]) == (["b", "a"], None)


def test_a_tree_that_is_too_large_is_split_and_its_prefix_repeated():
    rows = fill_rows([Tree((0, 1, 2), 10, (5, 5, 5))], 20)
    parts = sorted((tree for row in rows for tree in row), key=lambda tree: tree.samples)
    assert parts == [Tree((0, 1), 10, (5, 5)), Tree((2,), 0, (15,))]


def test_a_sample_that_is_larger_than_a_row_has_one_of_its_own():
    rows = fill_rows([Tree((0,), 0, (50,)), Tree((1,), 0, (5,))], 20)
    assert sorted(len(row) for row in rows) == [1, 1]


TREES = st.lists(
    st.tuples(st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1, max_size=5)),
    min_size=1,
    max_size=12,
)


@given(TREES, st.integers(40, 200), st.integers(1, 4))
def test_rows_hold_every_sample_once_and_are_not_too_full(shapes, room, processes):
    trees, number = [], 0
    for prefix, branches in shapes:
        samples = tuple(range(number, number + len(branches)))
        number += len(branches)
        prefix = prefix if len(branches) > 1 else 0
        trees.append(Tree(samples, prefix, tuple(branches)))
    rows = fill_rows(trees, room, processes)
    assert len(rows) % processes == 0
    assert sorted(n for row in rows for tree in row for n in tree.samples) == list(range(number))
    assert all(len(row) <= 1 or sum(tree.tokens for tree in row) <= room for row in rows)


@pytest.mark.parametrize("room", [7, 9, 100])
def test_splitting_keeps_each_samples_length(room):
    tree = Tree((4, 5, 6), 3, (1, 2, 4))
    parts = [part for row in fill_rows([tree], room) for part in row]
    lengths = {n: part.prefix + b for part in parts for n, b in zip(part.samples, part.branches, strict=True)}
    assert lengths == {4: 4, 5: 5, 6: 7}
