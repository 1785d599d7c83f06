"""Runs over runs, and what an answer gains from standing first."""

from __future__ import annotations

import pytest

from vistune.evaluate.judge.position import position_bias
from vistune.evaluate.measure import Measure, measures
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.runs import means, over_runs


def outcomes(pairs: dict[str, tuple[float, float] | None]) -> list[Outcome]:
    return [Outcome(name, "", "", {"all": pair} if pair else {}) for name, pair in pairs.items()]


def measure(value: float) -> Measure:
    return Measure(value, 0, 100, 1)


def test_runs_have_mean_sample_deviation_and_values():
    over = over_runs([{"a": measure(70), "b": measure(1)}, {"a": measure(72)}, {"a": measure(74)}])
    assert over.mean == {"a": 72, "b": 1} and over.deviation == {"a": 2, "b": None} and over.runs == 3
    assert over.values == {"a": (70, 72, 74), "b": (1, None, None)}
    assert over_runs([{"a": measure(70)}]).deviation == {"a": None}


def test_the_mean_of_the_same_run_twice_has_the_interval_of_one():
    run = outcomes({f"q{n}": (4.0 + n % 5, 5.0 + n % 3) for n in range(40)})
    one, both = measures(run), means([measures(run)] * 2, [run, run[::-1]])
    assert both["all"] == one["all"]


def test_the_mean_is_over_the_runs_that_have_the_measure_and_counts_questions_of_any():
    runs = [outcomes({"x": (4, 8), "y": (6, 8)}), outcomes({"y": (8, 8), "z": (4, 8)}), outcomes({"x": None})]
    (mean,) = means([measures(run) for run in runs], runs).values()
    assert mean.value == pytest.approx((62.5 + 75) / 2) and mean.count == 3
    assert mean.low < mean.value < mean.high


def test_gain_is_the_difference_of_two_ratios_of_means():
    bias = position_bias([outcomes({"x": (4, 8), "y": (6, 8)})], [outcomes({"y": (9, 6), "x": (7, 10)})])
    assert bias is not None and bias.questions == 2
    assert bias.second == pytest.approx(100 * 10 / 16) and bias.first == pytest.approx(100)
    assert bias.gain == pytest.approx(37.5) and bias.low <= 37.5 <= bias.high


def test_judge_that_favours_the_first_is_found_and_a_fair_one_is_not():
    names = [f"q{number}" for number in range(40)]
    fair = {name: (4.0 + number % 5, 5.0 + number % 3) for number, name in enumerate(names)}
    biased = {name: (candidate + 1, reference - 1) for name, (candidate, reference) in fair.items()}
    found = position_bias([outcomes(fair)], [outcomes(biased)])
    assert found is not None and found.shown and found.low > 0
    same = position_bias([outcomes(fair)], [outcomes(fair)])
    assert same is not None and not same.shown and (same.gain, same.low, same.high) == (0, 0, 0)


def test_only_reviews_with_a_counterpart_in_their_run_count():
    normal = [outcomes({"x": (4, 8), "y": None}), outcomes({"x": (2, 8), "y": (6, 8)})]
    swapped = [outcomes({"x": (4, 8), "y": (10, 1)}), outcomes({"x": None, "y": (6, 8)})]
    bias = position_bias(normal, swapped)
    assert bias is not None and (bias.second, bias.first, bias.questions) == (62.5, 62.5, 2)
    assert position_bias([outcomes({"x": None})], [outcomes({"x": (1, 1)})]) is None
