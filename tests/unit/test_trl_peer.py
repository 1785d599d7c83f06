"""TRL as a peer of the training benchmark: left out, refused if it computes something else, or the same."""

import argparse

import pytest
from benchmarks import train_step
from benchmarks.peers.trl import PYTHON

from tests.conftest import slow

SMALL = argparse.Namespace(samples=8, patches=4, row_tokens=512, question_first=0.0)


def test_where_trl_is_not_installed_one_line_tells_how_to_and_the_figures_are_null(tmp_path, capsys):
    peer, figures = train_step.prepare_trl(tmp_path / "bin" / "python", tmp_path, SMALL)
    assert peer is None and figures == {"trl": None, "trl_loss_relative_error": None}
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "left out" in said and "`make peers`" in said
    speed = {
        variant: {"samples_per_second": 1, "memory_mib": 1}
        for variant in ("ours", "other_kernel", "padded", "grouped")
    }
    work = dict.fromkeys(speed, 1)
    ratios = train_step.ratios({"instruct": speed, "align": speed}, {"instruct": work, "align": work})
    assert ratios["speedup_vs_trl"] is None and ratios["speedup_vs_padded"] == 1


@pytest.mark.parametrize("theirs", [9.0 * 1.001, 9.0 * 0.999, float("nan")])
def test_another_first_loss_stops_the_benchmark(theirs):
    assert train_step.loss_error(9.0, 9.0 * (1 + 5e-5)) == pytest.approx(5e-5)
    with pytest.raises(SystemExit, match="first loss"):
        train_step.loss_error(9.0, theirs)


@slow
def test_trl_has_our_first_loss(tmp_path):
    if not PYTHON.is_file():
        pytest.skip("needs TRL: make peers")
    _, figures = train_step.prepare_trl(PYTHON, tmp_path / "task", SMALL)
    assert figures["trl_loss_relative_error"] < 1e-5 and set(figures["trl"]) == {
        "trl",
        "torch",
        "transformers",
    }
