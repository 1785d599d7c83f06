"""Padded batches: nothing lost, nothing invented, an order that the seed fixes."""

from __future__ import annotations

import random
from itertools import islice
from pathlib import Path

import pytest
import torch
from PIL import Image

from vistune.data.batch import epochs, order, pad
from vistune.data.images import Preprocessor
from vistune.data.pixels import PixelStore
from vistune.template import Encoded

PAD = 0
SHORT = Encoded([11, 12], [-100, 12], [])
LONG = Encoded([21, 22, 23, 24], [-100, -100, 23, 24], [])


def sample(number: int, length: int) -> Encoded:
    """A sample whose every id is its own number."""
    return Encoded([number] * length, [-100] * (length - 1) + [number], [])


SAMPLES = [sample(number, 1 + number * 7 % 5) for number in range(1, 12)]


def first(count: int, seed: int, batch_size: int = 4) -> list[list[int]]:
    """Numbers of the samples in the first ``count`` batches."""
    return [[item.ids[0] for item in batch] for batch in islice(epochs(SAMPLES, batch_size, seed), count)]


# Padding


def test_shorter_samples_are_padded_on_the_right():
    batch = pad([SHORT, LONG], PAD, None)
    assert batch.ids.tolist() == [[11, 12, PAD, PAD], [21, 22, 23, 24]]
    assert batch.labels.tolist() == [[-100, 12, -100, -100], [-100, -100, 23, 24]]
    assert batch.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_mask_covers_a_real_token_that_equals_the_padding():
    batch = pad([Encoded([5, PAD], [-100, PAD], []), LONG], PAD, None)
    assert batch.attention_mask.tolist()[0] == [1, 1, 0, 0]
    assert batch.labels.tolist()[0] == [-100, PAD, -100, -100]


def test_every_tensor_of_a_batch_is_made_of_whole_numbers_and_of_one_shape():
    batch = pad([SHORT, LONG, SHORT], PAD, None)
    for tensor in (batch.ids, batch.labels, batch.attention_mask):
        assert (tensor.shape, tensor.dtype) == ((3, 4), torch.long)


def test_batch_without_pictures_has_no_pixels():
    assert pad([SHORT, LONG], PAD, None).pixels is None


def test_pixels_come_in_reading_order_one_for_each_picture(tmp_path: Path):
    for name, level in (("black", 0), ("white", 255)):
        Image.new("RGB", (8, 8), (level,) * 3).save(tmp_path / f"{name}.png")
    store = PixelStore(tmp_path, Preprocessor(8, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)))
    rows = [
        Encoded([9], [9], ["white.png", "black.png"]),
        SHORT,
        Encoded([9], [9], ["white.png"]),
    ]
    pixels = pad(rows, PAD, store).pixels
    assert pixels.shape == (3, 3, 8, 8)
    assert pixels.mean(dim=(1, 2, 3)).tolist() == [1.0, 0.0, 1.0]


def test_batch_moves_whole_to_a_device():
    moved = pad([SHORT, LONG], PAD, None).to(torch.device("meta"))
    assert {moved.ids.device.type, moved.labels.device.type, moved.attention_mask.device.type} == {"meta"}
    assert moved.pixels is None


# Order


@pytest.mark.parametrize(("count", "batch_size"), [(1, 4), (4, 4), (5, 4), (100, 3), (7, 1), (300, 8)])
def test_order_holds_every_sample_once_in_batches_that_are_full_but_the_last_made(
    count: int, batch_size: int
):
    lengths = [1 + number * 7 % 13 for number in range(count)]
    batches = order(lengths, batch_size, random.Random(0))
    assert sorted(number for batch in batches for number in batch) == list(range(count))
    sizes = sorted((len(batch) for batch in batches), reverse=True)
    full, rest = divmod(count, batch_size)
    assert sizes == [batch_size] * full + [rest] * (rest > 0)


def test_samples_of_like_length_share_a_batch():
    lengths = [9, 2, 5, 2, 9, 5, 2, 9, 5]
    batches = order(lengths, 3, random.Random(1))
    assert sorted([lengths[number] for number in batch] for batch in batches) == [[2] * 3, [5] * 3, [9] * 3]


def test_batches_do_not_come_sorted_by_length():
    lengths = list(range(64))
    shortest = [min(batch) for batch in order(lengths, 4, random.Random(0))]
    assert shortest != sorted(shortest)


# Epochs


@pytest.mark.parametrize("batch_size", [1, 3, 4, 20])
def test_every_epoch_holds_every_sample_once(batch_size: int):
    per_epoch = -(-len(SAMPLES) // batch_size)
    batches = first(3 * per_epoch, seed=0, batch_size=batch_size)
    for epoch in range(3):
        seen = [number for batch in batches[epoch * per_epoch : (epoch + 1) * per_epoch] for number in batch]
        assert sorted(seen) == list(range(1, 12))


def test_batches_are_the_samples_themselves():
    for batch in islice(epochs(SAMPLES, 4, 0), 3):
        assert all(item is SAMPLES[item.ids[0] - 1] for item in batch)


def test_same_seed_gives_the_same_batches():
    assert first(9, seed=5) == first(9, seed=5)


def test_another_seed_gives_another_order():
    assert first(3, seed=5) != first(3, seed=6)


def test_each_epoch_has_its_own_order():
    batches = first(6, seed=5)
    assert batches[:3] != batches[3:]
