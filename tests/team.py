"""Runs on several processes, without ``torchrun``: many jobs one after another within one start.

``python -m tests.team JOBS.json`` is one process. A job is what ``train`` takes, and how it is disturbed:

    recipe, data, images, out    of ``train``
    port                         where the job's processes meet
    memory                       bytes that a process may use; out/reduced-RANK.json then says how often
                                 gradients were communicated
    chunk                        elements of logits that are computed at a time
    stop                         a step, from 1 over all stages, where the run is interrupted
    kill                         [rank, step]: there this process kills itself, and no later job is run
    loads                        no run: the model is loaded and spread, and out/peak-RANK.json says how many
                                 bytes of memory that took at most
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]


def run_team(size: int, jobs: list[dict[str, Any]], folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Run ``jobs`` on ``size`` processes; what became of each process."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"jobs-{size}.json"
    file.write_text(json.dumps([{**job, "port": _free_port()} for job in jobs]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": str(size)}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    command = [sys.executable, "-m", "tests.team", str(file)]
    logs = [folder / f"log-{size}-{rank}.txt" for rank in range(size)]
    processes = []
    for rank, log in enumerate(logs):
        ranked = {**environment, "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)}
        processes.append(
            subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log.open("w"), env=ranked)
        )
    try:
        codes = [process.wait(timeout=500) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [
        subprocess.CompletedProcess(command, code, stderr=log.read_text())
        for code, log in zip(codes, logs, strict=True)
    ]


def main(file: str) -> None:
    for job in json.loads(Path(file).read_text()):
        os.environ["MASTER_PORT"] = str(job["port"])
        load(job) if job.get("loads") else run_job(job)


def load(job: dict[str, Any]) -> None:
    """Load the model of the job's first stage, as a run does, and measure."""
    import torch

    from vistune.model.checkpoint import join_parts
    from vistune.recipe import parse_recipe
    from vistune.train.compute import set_up
    from vistune.train.parallel import assemble, shard
    from vistune.train.placing import materialize
    from vistune.train.start import start

    small, large = (parse_recipe(job[key], "job") for key in ("small", "recipe"))
    join_parts(small.model, 0)  # so that importing is not measured
    out, name = Path(job["out"]), next(iter(large.stages))
    with assemble() as team:
        before = _memory("VmRSS")
        model = start(large, name, None, whole=team.leads).model
        model.set_trained({"connector", "llm"})
        set_up(model, large.run, torch.float32)
        shard(model, team, torch.float32, lambda part: materialize(part, team))
        took = _memory("VmHWM") - before
        sums = [float(p.detach().full_tensor().sum()) for p in model.parameters()]  # type: ignore[attr-defined]
        out.mkdir(exist_ok=True)
        (out / f"peak-{team.rank}.json").write_text(json.dumps({"took": took, "sums": sums}))


def _memory(kind: str) -> int:
    """Bytes, now (VmRSS) or at most so far (VmHWM). Not of ``resource``: it counts the parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(kind))


def run_job(job: dict[str, Any]) -> None:
    """Run one job in this process."""
    import torch.distributed as dist

    from vistune.model import llava
    from vistune.recipe import parse_recipe
    from vistune.train import stage_run
    from vistune.train.loop import train
    from vistune.train.parallel import Team

    take_step, steps = stage_run.optimizer_step, []

    def disturbed(*arguments: Any) -> Any:
        steps.append(None)
        if "kill" in job and [int(os.environ["RANK"]), len(steps)] == job["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        if len(steps) == job.get("stop"):
            raise KeyboardInterrupt
        return take_step(*arguments)

    reduced, reduce = [], dist.reduce_scatter_single

    def counted(*arguments: Any, **options: Any) -> Any:
        reduced.append(None)
        return reduce(*arguments, **options)

    with (
        mock.patch.object(dist, "reduce_scatter_single", counted),
        mock.patch.object(Team, "memory", job.get("memory", Team.memory)),
        mock.patch.object(stage_run, "optimizer_step", disturbed),
        mock.patch.object(llava, "LOGITS_AT_ONCE", job.get("chunk", llava.LOGITS_AT_ONCE)),
        contextlib.suppress(*([KeyboardInterrupt] if "stop" in job else [])),
    ):
        train(parse_recipe(job["recipe"], "job"), *(Path(job[key]) for key in ("data", "images", "out")))
    if "memory" in job:
        file = Path(job["out"]) / f"reduced-{os.environ.get('RANK', 0)}.json"
        file.write_text(json.dumps(len(reduced)))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


if __name__ == "__main__":
    main(sys.argv[1])
