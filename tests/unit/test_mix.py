"""Which records each epoch shows: drawn anew, and none left out while another comes again."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from vistune.data.mix import Mix
from vistune.recipe import StageRecipe
from vistune.train.order import Order, count_steps

PAPER = (58_000, 23_000, 77_000)  # conversation, detail, reasoning


def files_of(*counts: int) -> list[np.ndarray]:
    ends = np.cumsum((0, *counts))
    return [np.arange(start, end) for start, end in pairwise(ends)]


def shown(mix: Mix, epochs: int, records: int) -> np.ndarray:
    return sum(np.bincount(mix.epoch(number), minlength=records) for number in range(epochs))


def test_passes_repeat_whole_and_draw_the_rest():
    selection = Mix(files_of(10, 4), [2.5, 0.5], seed=3).epoch(0)
    counts = Counter(selection.tolist())
    assert len(selection) == 27 and selection.dtype == np.int64
    assert sorted(counts[n] for n in range(10)) == [2] * 5 + [3] * 5
    assert sorted(counts[n] for n in range(10, 14)) == [0, 0, 1, 1]


@pytest.mark.parametrize("passes", [0.3, 0.5, 0.7, 1.4, 2.5])
def test_no_record_is_seen_more_than_once_more_often_than_another(passes: float):
    mix = Mix(files_of(20), [passes], seed=1)
    for epochs in range(1, 8):
        counts = shown(mix, epochs, 20)
        assert counts.max() - counts.min() <= 1
        within = np.bincount(mix.epoch(epochs), minlength=20)
        assert within.max() - within.min() <= 1 and within.sum() == len(mix)


def test_the_seed_and_the_epoch_decide_what_is_drawn():
    def drawn(seed: int, epoch: int) -> list[int]:
        return Mix(files_of(100), [0.5], seed=seed).epoch(epoch).tolist()

    assert drawn(1, 3) == drawn(1, 3)
    assert drawn(1, 0) != drawn(2, 0) and set(drawn(1, 0)) | set(drawn(1, 1)) == set(range(100))
    assert drawn(1, 0) != drawn(1, 2) and len(set(drawn(1, 2))) == 50
    one, other = Mix(files_of(100, 100), [0.5, 0.5]).epoch(0).reshape(2, 50)
    assert one.tolist() != (other - 100).tolist()


def test_uniform_mix_shows_all_files_equally_often_in_an_epoch_of_the_same_length():
    files = files_of(58, 23, 77)
    mix = Mix(files, [1, 1, 1], "uniform")
    selection = mix.epoch(0)
    assert len(selection) == len(mix) == 158 and mix.counts == [53, 53, 52]
    assert [int(np.isin(selection, records).sum()) for records in files] == [53, 53, 52]
    counts = Counter(selection.tolist())
    assert {counts[n] for n in files[1]} == {2, 3} and {counts[n] for n in files[2]} == {0, 1}


def test_a_small_share_of_a_small_file_is_one_record():
    assert len(Mix(files_of(3, 3), [0.01, 1])) == 4
    assert [len(records) for records in Mix(files_of(3, 3), [1, 1], shares=[0.01, 1]).records] == [1, 3]


def test_the_papers_chat_stage_leaves_no_record_out():
    """Three epochs of a uniform mix of 158K records."""
    mix = Mix(files_of(*PAPER), [1, 1, 1], "uniform")
    stage = StageRecipe(
        trains=("llm",), data=dict.fromkeys("abc", 1), learning_rate=1.0, batch_size=32, epochs=3
    )
    order = Order(mix, np.arange(158_000), stage.batch_size, 0, share=True)
    times = order.times_shown(count_steps(stage, len(mix)))
    assert times.min() == 2 and times.sum() == 3 * 158_000
    for records, count in zip(mix.records, mix.counts, strict=True):
        assert set(times[records]) <= {3 * count // len(records), 3 * count // len(records) + 1}


def test_the_third_row_of_the_papers_table_4_is_that_mix():
    """Conversation, 5% of detail and 10% of reasoning, whose records are the same in all epochs."""
    mix = Mix(files_of(*PAPER), [1, 1, 1], shares=[1, 0.05, 0.1])
    assert mix.counts == [58_000, 1_150, 7_700]
    assert np.count_nonzero(shown(mix, 3, 158_000)) == len(mix)
    assert set(shown(mix, 3, 158_000)) == {0, 3}
