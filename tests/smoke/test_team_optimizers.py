"""Weights of 16 bits and moments of 8, spread over processes: learned, saved, and resumed by one."""

from pathlib import Path

import pytest

from tests.smoke.test_team import check_ended, files, job_of, losses  # noqa: F401  (a fixture)
from tests.team import run_team
from vistune.recipe import parse_recipe
from vistune.train.loop import train

pytest.importorskip("torchao", reason="needs torchao: pip install 'vistune[low-memory]'")


def run_alone(job):
    train(parse_recipe(job["recipe"], "job"), *(Path(job[key]) for key in ("data", "images", "out")))
    return losses(job)


def test_two_processes_learn_what_one_does_and_one_resumes_their_run(files, tmp_path):  # noqa: F811
    def job(out):
        made = job_of(files, tmp_path / out, "plain", "bfloat16")
        for stage in made["recipe"]["stages"].values():
            stage["optimizer"] = {"kind": "adamw_8bit", "weights": "bfloat16"}
        return made

    together, killed = job("together"), job("killed")
    done = run_team(2, [together, {**killed, "kill": [1, 8]}], tmp_path)  # the second stage's last step
    assert Path(killed["out"], "instruct", "saves", "step-000002").is_dir(), done[0].stderr[-3000:]
    alone, resumed = run_alone(job("alone")), run_alone(killed)
    for stage, expected in alone.items():
        assert losses(together)[stage] == pytest.approx(expected, rel=2e-2)
        assert resumed[stage] == pytest.approx(expected, rel=2e-2)
    assert resumed["instruct"][:2] == losses(together)["instruct"][:2]  # the two steps before the save
