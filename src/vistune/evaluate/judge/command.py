"""What `vistune judge` does, and tells."""

from __future__ import annotations

from collections.abc import Iterator

from vistune.errors import count_by_reason
from vistune.evaluate.judge.options import JudgeOptions
from vistune.evaluate.judge.position import position_bias
from vistune.evaluate.judge.run import SET_ASIDE, Judged, JudgedRun, judge
from vistune.evaluate.runs import over_runs


def run_judge(options: JudgeOptions) -> Iterator[str]:
    """Run the command; yields what it tells at the end.

    Raises:
        VistuneError: as :func:`judge` does; or the run had to stop early, after what it had is written.
    """
    judged = judge(options)
    yield from tell(judged)
    for reason, count in count_by_reason(judged.problems).items():
        yield f"set aside: {count} x {reason} (see {options.out / SET_ASIDE})"
    if judged.asked_again:
        yield f"asked again, because the first reply held no scores: {judged.asked_again} reviews"
    yield judged.spent
    if judged.stopped:
        raise judged.stopped


def tell(judged: Judged) -> Iterator[str]:
    """The table of relative scores: mean over runs, their spread, each run; then the bias of place."""
    usual = [run for run in judged.runs if not run.swapped]
    swapped = [run for run in judged.runs if run.swapped]
    yield _title(judged, usual)
    yield from _table(usual)
    if swapped:
        yield "the candidate as assistant 1:"
        yield from _table(swapped)
        bias = position_bias([run.outcomes for run in usual], [run.outcomes for run in swapped])
        if bias:
            what = "the place matters" if bias.shown else "no effect of the place shown at 95%"
            yield (
                f"standing first gains the candidate {bias.gain:+.1f} points "
                f"[{bias.low:+.1f}, {bias.high:+.1f}] ({bias.second:.1f} as second, {bias.first:.1f} as "
                f"first; {bias.questions} questions): {what}"
            )


def _title(judged: Judged, runs: list[JudgedRun]) -> str:
    bench, answered = judged.bench, min(len(run.outcomes) for run in runs)
    unread = sum(outcome.read is None for run in runs for outcome in run.outcomes)
    head = f"{bench.title}, relative score, {answered} of {bench.official} questions"
    if answered < bench.official:
        head += ": not the benchmark's score"
    return head + (f"; left out, without scores: {unread} reviews" if unread else "")


def _table(runs: list[JudgedRun]) -> Iterator[str]:
    over = over_runs([run.measures for run in runs])
    heads = [f"run {run.number}" for run in runs]
    yield f"{'':14}{'mean':>7}{'sd':>7}" + "".join(f"{head:>8}" for head in heads)
    for name, mean in over.mean.items():
        row = "".join(f"{_cell(value):>8}" for value in over.values[name])
        yield f"{name:14}{mean:7.1f}{_cell(over.deviation[name]):>7}{row}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
