"""The prefix cache: the longest common beginning is found, and memory is bounded."""

import numpy as np
import pytest
import torch

from vistune.model.decode import Prefixes, Sampler, Stretch, marks_of

IMAGE = 9


def stretch(length, value=0.0):
    made = Stretch(length)
    places = torch.arange(length, dtype=torch.float32)[None, None, :, None] + value
    made.extend(0, places, places)
    made.close()
    return made


def marks(*ids, pictures=()):
    return marks_of(ids, IMAGE, [name.encode().ljust(8, b"-") for name in pictures])


def test_the_longest_beginning_is_found_and_cut_where_rows_part():
    kept = Prefixes(10_000)
    kept.keep(marks(1, 2, 3, 4), stretch(4, 100))
    kept.keep(marks(1, 2, 7), stretch(3, 200))
    found = kept.find(marks(1, 2, 3, 5, 6))
    assert found.length == 3 and found.keys[0].flatten().tolist() == [100, 101, 102]
    assert kept.find(marks(1, 2, 7, 8)).keys[0].flatten().tolist() == [200, 201, 202]
    assert kept.find(marks(2, 2)) is None


def test_something_is_always_left_to_read():
    kept = Prefixes(10_000)
    kept.keep(marks(1, 2, 3), stretch(3))
    assert kept.find(marks(1, 2, 3)).length == 2


def test_the_same_words_about_another_picture_part_at_the_picture():
    kept = Prefixes(10_000)
    kept.keep(marks(1, IMAGE, IMAGE, 2, pictures=["dog"]), stretch(4))
    assert kept.find(marks(1, IMAGE, IMAGE, 2, 3, pictures=["dog"])).length == 4
    assert kept.find(marks(1, IMAGE, IMAGE, 2, 3, pictures=["cat"])).length == 1
    two = marks(IMAGE, IMAGE, 5, IMAGE, IMAGE, pictures=["dog", "cat"])
    assert (two[:2] == two[0]).all() and (two[3:] == two[3]).all() and two[0] != two[3]
    assert (two[[0, 1, 3, 4]] < 0).all()


def test_what_goes_on_takes_the_place_of_what_it_goes_on_from():
    kept = Prefixes(10_000)
    kept.keep(marks(1, 2), stretch(2))
    kept.keep(marks(1, 2, 3), stretch(3))
    kept.keep(marks(1, 2), stretch(2))
    assert len(kept) == 1 and kept.bytes == stretch(3).bytes


def test_the_least_recently_used_leaves_and_memory_is_bounded():
    kept = Prefixes(3 * stretch(4).bytes)
    for number in range(3):
        kept.keep(marks(number, 2, 3, 4), stretch(4))
    kept.find(marks(0, 2, 5))
    kept.keep(marks(7, 2, 3, 4), stretch(4))
    assert kept.find(marks(0, 2, 5)) and kept.find(marks(1, 2, 5)) is None
    assert len(kept) == 3 and kept.bytes == 3 * stretch(4).bytes
    kept.keep(marks(*range(20)), stretch(20))  # larger than all of it
    assert len(kept) == 3


def test_against_comparing_with_everything_that_was_kept():
    rng = np.random.default_rng(0)
    kept, known = Prefixes(10**9), []
    for _ in range(400):
        row = rng.integers(0, 3, rng.integers(1, 12))
        common = [_common(row[:-1], other) for other in known]
        found = kept.find(row)
        assert (found.length if found else 0) == max(common, default=0)
        if found:
            assert found.keys[0].flatten().tolist() == [_value(row[: n + 1]) for n in range(found.length)]
        made = Stretch(len(row))
        values = torch.tensor([float(_value(row[: n + 1])) for n in range(len(row))])[None, None, :, None]
        made.extend(0, values, values)
        kept.keep(row, made)
        known.append(row)
    leaves = [
        row for row in known if not any(len(o) > len(row) and _common(row, o) == len(row) for o in known)
    ]
    assert len(kept) == len({row.tobytes() for row in leaves})
    assert kept.bytes == sum(
        8 * len(np.frombuffer(row, dtype=np.int64)) for row in {r.tobytes() for r in leaves}
    )


def _common(a, b):
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _value(row):
    """Another number for each beginning."""
    return sum(3.0**n * (x + 1) for n, x in enumerate(row)) % 1000003


def test_a_seed_fixes_the_draws_and_top_p_bounds_them():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    first = [Sampler(1.0, seed=4)(logits) for _ in range(3)]
    assert len(set(first)) == 1
    draws = Sampler(1.0, top_p=0.7, seed=0)
    counts = np.bincount([draws(logits) for _ in range(2000)], minlength=4) / 2000
    assert counts[2:].sum() == 0 and counts[0] == pytest.approx(0.625, abs=0.04)
    assert {Sampler(1e-4, seed=s)(logits) for s in range(20)} == {0}
    free = Sampler(1.0, seed=1)
    assert np.bincount([free(logits) for _ in range(4000)]) / 4000 == pytest.approx(
        [0.5, 0.3, 0.15, 0.05], abs=0.03
    )


@pytest.mark.parametrize("settings", [(0.0, 1.0), (-1.0, 1.0), (1.0, 0.0), (1.0, 1.1)])
def test_settings_that_draw_nothing_are_refused(settings):
    with pytest.raises(ValueError, match="expected"):
        Sampler(*settings)
