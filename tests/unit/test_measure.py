"""Values and intervals of measures, against values worked out otherwise."""

import numpy as np
import pytest

from vistune.evaluate import measure
from vistune.evaluate.measure import Measure, measures, resampled_sums, wilson_interval
from vistune.evaluate.outcome import Outcome, read_outcomes, write_outcomes


def outcomes(**columns):
    """One outcome for each place of the columns of (numerator, denominator) pairs."""
    rows = zip(*columns.values(), strict=True)
    return [
        Outcome(str(n), "q", "a", dict(zip(columns, row, strict=True)), references=("x",))
        for n, row in enumerate(rows)
    ]


def test_shares_have_wilson_intervals():
    found = measures(outcomes(all=[(1, 1), (1, 1), (0, 1), (1, 1), (0, 0)]))
    assert found == {"all": Measure(75.0, pytest.approx(30.06, abs=0.01), pytest.approx(95.44, abs=0.01), 4)}


def test_wilson_interval_against_values_worked_out_by_hand():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(50, 100) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))
    assert wilson_interval(10, 10)[1] == 1.0 and wilson_interval(0, 10)[0] == 0.0


def test_a_ratio_is_a_ratio_of_sums_not_a_mean_of_ratios():
    (found,) = measures(outcomes(all=[(6, 8), (9, 9), (2, 10)])).values()
    assert found.value == pytest.approx(100 * 17 / 27) and found.method == "bootstrap" and found.count == 3
    assert found.low < found.value < found.high


@pytest.mark.parametrize("few", [0, 10**9], ids=["one by one", "by kind"])
def test_resamples_have_the_spread_of_the_sum(few, monkeypatch):
    monkeypatch.setattr(measure, "_FEW", few)
    generator = np.random.default_rng(1)
    columns = np.stack([generator.integers(0, 3, 400), np.ones(400)], 1).astype(float)
    sums = resampled_sums(columns)
    assert sums.shape == (measure.RESAMPLES, 2) and (sums[:, 1] == 400).all()
    assert sums[:, 0].mean() == pytest.approx(columns[:, 0].sum(), rel=0.01)
    assert sums[:, 0].std() == pytest.approx(20 * columns[:, 0].std(), rel=0.05)
    assert (resampled_sums(columns) == sums).all()


def test_a_measure_that_counts_nothing_is_left_out_and_order_is_kept():
    made = outcomes(b=[(1, 1), (0, 1)], a=[(0, 0), (0, 0)], c=[(1, 2), (1, 1)])
    assert list(measures(made, ["c", "a", "b"])) == ["c", "b"]
    assert measures([]) == {}


def test_outcomes_come_back_as_they_were_written(tmp_path):
    made = [Outcome("1", "Wo?", "„Hier“\n", {"all": (1.0, 1.0)}, "a.jpg", ("x", "y"), "k", "hier", True, "n")]
    write_outcomes(tmp_path / "outcomes.jsonl", made)
    assert read_outcomes(tmp_path / "outcomes.jsonl") == made
