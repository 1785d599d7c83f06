"""What `vistune judge` does, and tells."""

from __future__ import annotations

from collections.abc import Iterator

from vistune.errors import count_by_reason
from vistune.evaluate.judge.options import JudgeOptions
from vistune.evaluate.judge.position import position_bias
from vistune.evaluate.judge.run import SET_ASIDE, Judged, JudgedRun, judge
from vistune.evaluate.runs import means, over_runs


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
    files = " ".join(str(run.path) for run in judged.runs if not run.swapped)
    yield f"their page: vistune score {judged.bench.name} {files} --data {options.data} --out DIR"
    if judged.stopped:
        raise judged.stopped


def tell(judged: Judged) -> Iterator[str]:
    """The table of relative scores: mean over runs, interval, spread, each run; then the bias of place."""
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
    bench, answered = judged.bench, min(sum(o.read is not None for o in run.outcomes) for run in runs)
    unread = sum(outcome.read is None for run in runs for outcome in run.outcomes)
    head = f"{bench.title}, relative score, {answered} of {bench.official} questions"
    if answered < bench.official:
        head += ": not the benchmark's score"
    return head + (f"; left out, without scores: {unread} reviews" if unread else "")


def _table(runs: list[JudgedRun]) -> Iterator[str]:
    found = [run.measures for run in runs]
    over, mean = over_runs(found), means(found, [run.outcomes for run in runs])
    if not mean:
        yield "no review could be read: there is no score"
        return
    heads = "".join(f"{f'run {run.number}':>8}" for run in runs)
    yield f"{'':14}{'mean':>7}{'95% interval':>17}{'sd':>7}{'questions':>11}{heads}"
    for name, measure in mean.items():
        interval = f"{measure.low:.1f} to {measure.high:.1f}"
        row = "".join(f"{_cell(value):>8}" for value in over.values[name])
        spread = _cell(over.deviation[name])
        yield f"{name:14}{measure.value:7.1f}{interval:>17}{spread:>7}{measure.count:>11}{row}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
