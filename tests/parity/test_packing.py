"""Packed equals one by one: the loss and every gradient, for every family of LLMs."""

import numpy as np
import pytest
import torch

from tests.tiny import IMAGE_SIZE, tiny_checkpoint
from vistune.conversation import IGNORE_INDEX
from vistune.data.batch import picture_order, to_batch
from vistune.data.pack import Tree, fill_rows, flatten, plant, shared_length
from vistune.model import attention, llava
from vistune.template import Encoded

IMAGE, PATCHES = 2, 4
PICTURE = [IMAGE] * PATCHES


def sample(seed, start, picture, lengths, trained_at_once=False):
    """``start``, a picture, then pairs of question (not trained on) and answer (trained on)."""
    rng = np.random.default_rng(seed)
    ids, labels = [*start, *PICTURE], [IGNORE_INDEX] * (len(start) + PATCHES)
    for question, answer in lengths:
        said = rng.integers(3, 200, (0 if trained_at_once else question) + answer).tolist()
        ids += said
        labels += [IGNORE_INDEX] * (len(said) - answer) + said[len(said) - answer :]
    return Encoded(ids, labels, [picture])


def text(seed, length):
    ids = np.random.default_rng(seed).integers(3, 200, length).tolist()
    return Encoded(ids, [IGNORE_INDEX] * 3 + ids[3:], [])


SAMPLES = [
    sample(0, [7, 8], "a.jpg", [(4, 3)]),
    sample(1, [7, 8], "a.jpg", [(3, 5), (2, 4)]),
    sample(2, [7, 8], "a.jpg", [(6, 1)]),
    sample(3, [7, 8], "b.jpg", [(5, 5)]),
    sample(4, [7, 9, 10, 11], "b.jpg", [(2, 2)]),  # the question stands before the picture
    text(5, 12),
    sample(6, [7], "c.jpg", [(0, 6)], trained_at_once=True),  # a caption follows its picture at once
    sample(7, [7], "c.jpg", [(0, 4)], trained_at_once=True),
]
LENGTHS = np.array([len(s.ids) for s in SAMPLES])
PREFIXES = np.array([shared_length(np.array(s.ids), np.array(s.labels), IMAGE) for s in SAMPLES])
GROUPS = np.array([0, 0, 0, 1, 2, 3, 4, 4])


@pytest.fixture
def model(tokenizer):
    model = tiny_checkpoint(tokenizer).model
    model.set_trained({"connector", "llm"})
    return model.train()


def pixels_of(names):
    if not names:
        return None
    seeds = [ord(name[0]) for name in names]
    return torch.stack(
        [
            torch.randn(3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(seed))
            for seed in seeds
        ]
    )


def batch_of(trees):
    row = flatten(trees, [[SAMPLES[n] for n in tree.samples] for tree in trees], IMAGE)
    names, order = picture_order(row.pictures)
    batch = to_batch(row)
    return type(batch)(**{**vars(batch), "pixels": pixels_of(names), "picture_order": order})


def learn(model, rows):
    """The loss summed over rows, and every gradient."""
    model.zero_grad()
    loss = sum(model(batch_of(row)) for row in rows)
    loss.backward()
    return loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def alone():
    return [[Tree((n,), 0, (len(s.ids),))] for n, s in enumerate(SAMPLES)]


def by_hand(model):
    """Without any of our packing: transformers' causal attention, one sample at a time."""
    total = 0.0
    for item in SAMPLES:
        embeddings = model.embed(torch.tensor([item.ids]), pixels_of(item.pictures))
        logits = model.language_model(inputs_embeds=embeddings, use_cache=False).logits[0, :-1]
        targets = torch.tensor(item.labels[1:])
        total += torch.nn.functional.cross_entropy(
            logits, targets, ignore_index=IGNORE_INDEX, reduction="sum"
        ).item()
    return total


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    assert ours[1].keys() == theirs[1].keys()
    for name, gradient in theirs[1].items():
        scale = gradient.abs().max().clamp(min=1e-6)
        assert (ours[1][name] - gradient).abs().max() / scale < 1e-5, name


def test_one_by_one_is_what_transformers_computes(model):
    assert learn(model, alone())[0] == pytest.approx(by_hand(model), rel=1e-6)


@pytest.mark.parametrize("room", [60, 100, 1000])
def test_packed_equals_one_by_one(model, room):
    trees = plant(range(len(SAMPLES)), LENGTHS, PREFIXES, GROUPS)
    assert [tree.prefix for tree in trees] == [6, 0, 0, 0, 5]
    rows = fill_rows(trees, room)
    assert all(sum(tree.tokens for tree in row) <= room for row in rows)
    assert_same(learn(model, rows), learn(model, alone()))


@torch.no_grad()
def test_flex_attention_computes_the_same(model, monkeypatch):
    trees = plant(range(len(SAMPLES)), LENGTHS, PREFIXES, GROUPS)
    sliced = model(batch_of(trees))
    monkeypatch.setattr(attention, "_sliced", attention._flex)
    torch.testing.assert_close(model(batch_of(trees)), sliced)


@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU: FlexAttention has no gradient elsewhere"
)
def test_packed_on_a_gpu_equals_one_by_one_on_the_cpu(model):
    trees = plant(range(len(SAMPLES)), LENGTHS, PREFIXES, GROUPS)
    alone_here = learn(model, alone())
    model.cuda()
    loss = model(batch_of(trees).to(torch.device("cuda")))
    loss.backward()
    assert loss.item() == pytest.approx(alone_here[0], rel=1e-4)
    for name, gradient in alone_here[1].items():
        torch.testing.assert_close(model.get_parameter(name).grad.cpu(), gradient, rtol=1e-3, atol=1e-4)


def test_logits_in_chunks_give_the_same(model, monkeypatch):
    trees = plant(range(len(SAMPLES)), LENGTHS, PREFIXES, GROUPS)
    whole = learn(model, [trees])
    monkeypatch.setattr(llava, "LOGITS_AT_ONCE", 4 * model.language_model.config.vocab_size)
    assert_same(learn(model, [trees]), whole)


def test_a_picture_that_stands_in_several_trees_is_encoded_once(model):
    trees = [Tree((3,), 0, (LENGTHS[3],)), Tree((4,), 0, (LENGTHS[4],))]
    batch = batch_of(trees)
    assert batch.pixels.shape[0] == 1 and batch.picture_order.tolist() == [0, 0]
    assert_same(learn(model, [trees]), learn(model, [[tree] for tree in trees]))
