"""Block lists counted from trees, against the mask that torch evaluates for every pair of tokens."""

import shutil
import tracemalloc

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from vistune.data.pack import Tree
from vistune.model import attention
from vistune.model.blocks import BLOCK, block_mask, count_blocks

CPU = torch.device("cpu")
LENGTHS = st.one_of(st.integers(1, 40), st.integers(100, 300), st.sampled_from([BLOCK, 2 * BLOCK]))
TREES = st.lists(
    st.tuples(st.one_of(st.just(0), LENGTHS), st.lists(LENGTHS, min_size=1, max_size=4)), max_size=4
)


def row(shapes):
    return [Tree(tuple(range(len(b))), prefix, tuple(b)) for prefix, b in shapes]


@settings(max_examples=150)
@given(TREES, st.integers(0, 300), st.one_of(st.none(), st.integers(1, 400)))
def test_they_are_those_of_the_whole_mask(shapes, rest, window):
    trees = row(shapes)
    tokens = max(1, sum(tree.tokens for tree in trees) + rest)
    ours = block_mask(trees, tokens, window, CPU)
    theirs = create_block_mask(ours.mask_mod, None, None, tokens, tokens, device="cpu", BLOCK_SIZE=BLOCK)
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    whole, really = (dense_of(mask.full_kv_num_blocks, mask.full_kv_indices) for mask in (ours, theirs))
    assert not (whole & ~really).any()
    if window is None:
        assert torch.equal(whole, really)
    assert ours.seq_lengths == theirs.seq_lengths == (tokens, tokens)


def dense_of(counts, indices):
    blocks = torch.zeros(indices.shape[-2:], dtype=torch.bool)
    for block, (count, chosen) in enumerate(zip(counts[0, 0], indices[0, 0], strict=True)):
        blocks[block, chosen[: int(count)].long()] = True
    return blocks


@torch.no_grad()
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++: compiled, FlexAttention reads the lists")
def test_the_compiled_kernel_computes_what_the_trees_say():
    trees = row([(130, [70, 200, 300]), (0, [250]), (300, [90, 40])])
    tokens = sum(tree.tokens for tree in trees)
    query, key, value = torch.randn(3, 1, 2, tokens + 37, 16)
    mask = block_mask(trees, tokens + 37, 150, CPU)
    found = torch.compile(flex_attention)(query, key, value, block_mask=mask)
    expected = attention._sliced(
        query, key, value, attention.Layout(trees), attention.How(None, 0.0, 150, None)
    )
    torch.testing.assert_close(found[:, :, :tokens], expected[:, :, :tokens], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 4096])
def test_a_long_prefix_is_not_evaluated_pair_by_pair(window):
    """Of a picture of 576 patches and its dialogues, most of what attends is whole blocks."""
    trees = row([(640, [256] * 8)] * 6)
    some, whole = count_blocks(trees, sum(tree.tokens for tree in trees), window)
    assert whole.sum() > 2 * some.sum() and not (some & whole).any()


def test_nothing_of_the_size_of_a_mask_is_made():
    """Of a row of 128 Ki tokens, a mask of all pairs would take 16 GiB; the lists take 8 MiB."""
    tracemalloc.start()
    block_mask(row([(640, [256] * 8)] * 40), 2**17, None, CPU)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * 2**20
