"""Scores as tables on a terminal; as text elsewhere, never cut to a width."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from vistune.errors import Problem
from vistune.evaluate.measure import Measure
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.published import Published
from vistune.evaluate.score import Scored

Item = TypeVar("Item")
_WIDE = 10_000  # columns: a table is as wide as its content
_EXAMPLES, _SHOWN = 3, 60  # named for each reason; characters of an answer
_REASONS = 8  # told of each heading
NOT_SAID = "nobody wrote down how these answers were made"


def render(parts: Iterable[RenderableType]) -> str:
    """Tables and lines as text; in colour where standard output is a terminal."""
    terminal = sys.stdout.isatty()
    console = Console(
        file=io.StringIO(),
        force_terminal=terminal,
        width=_WIDE,
        highlight=False,
        markup=False,  # names and answers are told as they are
        emoji=False,
    )
    for part in parts:
        console.print(part, soft_wrap=True)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def score_parts(
    runs: Sequence[Scored], published: Sequence[Published], blind: Scored | None = None
) -> list[RenderableType]:
    """All that is told of the runs of one benchmark, in the order of reading.

    Args:
        blind: of a single run: the same questions asked without the pictures.
    """
    parts: list[RenderableType] = [Text(runs[0].title, style="bold")]
    for run in runs:
        if run.shortfall():
            where = f" ({run.path})" if len(runs) > 1 else ""
            parts.append(Text(run.shortfall() + where, style="bold red"))
    parts.append(one_table(runs[0], blind) if len(runs) == 1 else runs_table(runs))
    if published:
        parts += _beside(runs, published)
    for run in runs:
        parts += [Text(_printable(line)) for line in _facts(run, name=len(runs) > 1)]
    return parts


def one_table(run: Scored, blind: Scored | None = None) -> Table:
    """Value, interval and count of each measure."""
    table = _table("measure", "%", "95% interval", "questions", *(["without pictures"] if blind else []))
    for name, measure in run.measures.items():
        interval = f"{measure.low:.2f} to {measure.high:.2f}"
        style = "bold" if name == run.bench.headline else ""
        table.add_row(
            titled(name, run.bench.lower_is_better),
            f"{measure.value:.2f}",
            interval,
            f"{measure.count:,}",
            *([cell(blind.measures.get(name))] if blind else []),
            style=style,
        )
    return table


def runs_table(runs: Sequence[Scored]) -> Table:
    """Each run's value of each measure, the mean, and the standard deviation between runs."""
    deviations = deviations_of(runs)
    table = _table("measure", *(f"run {number}" for number in range(1, len(runs) + 1)), "mean", "spread")
    for name, mean in values_of(runs).items():
        values = [cell(run.measures.get(name)) for run in runs]
        style = "bold" if name == runs[0].bench.headline else ""
        table.add_row(
            titled(name, runs[0].bench.lower_is_better),
            *values,
            f"{mean:.2f}",
            f"±{deviations[name]:.2f}" if name in deviations else "",
            style=style,
        )
    return table


def values_of(runs: Sequence[Scored]) -> dict[str, float]:
    """Each measure's value; of several runs, their mean."""
    if len(runs) == 1:
        return {name: measure.value for name, measure in runs[0].measures.items()}
    from vistune.evaluate.runs import over_runs

    return dict(over_runs([run.measures for run in runs]).mean)


def deviations_of(runs: Sequence[Scored]) -> dict[str, float]:
    """The standard deviation of each measure between the runs that have it, where there are several."""
    if len(runs) == 1:
        return {}
    from vistune.evaluate.runs import over_runs

    found = over_runs([run.measures for run in runs]).deviation
    return {name: deviation for name, deviation in found.items() if deviation is not None}


def cell(measure: Measure | None) -> str:
    return "" if measure is None else f"{measure.value:.2f}"


def titled(name: str, lower_is_better: frozenset[str]) -> str:
    """A measure's name; an arrow says that less is better."""
    return f"{name} ↓" if name in lower_is_better else name


def sources_of(published: Sequence[Published]) -> list[str]:
    """Where the rows come from, each once; a row's source is told by its number, from 1."""
    return list(dict.fromkeys(source_of(row) for row in published))


def source_of(row: Published) -> str:
    return f"{row.source} ({row.remark})" if row.remark else row.source


def made_lines(made: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How answers were made: a name and its settings, one line each."""
    return [(str(name), _flat(value)) for name, value in made.items() if value not in (None, "", {}, [])]


def unread_reasons(unread: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Answers that could not be read, by what their scoring noted; the most frequent reason first."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in unread:
        groups.setdefault(outcome.note or "could not be read", []).append(outcome)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def remarks(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Answers that were read, and of which a reader should know more; the most frequent remark first."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.read is not None and outcome.note:
            groups.setdefault(outcome.note, []).append(outcome)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def set_aside_reasons(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Problems by their reason; the most frequent first."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.reason, []).append(problem)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def _beside(runs: Sequence[Scored], published: Sequence[Published]) -> list[RenderableType]:
    values = values_of(runs)
    names = [name for name in values if any(name in row.scores for row in published)]
    sources = sources_of(published)
    table = _table("beside the published", *names, "source")
    own = "these answers" if len(runs) == 1 else f"these answers, mean of {len(runs)} runs"
    table.add_row(own, *(f"{values[name]:.2f}" for name in names), "", style="bold")
    for row in published:
        table.add_row(row.model, *map(row.cell, names), f"[{sources.index(source_of(row)) + 1}]")
    return [table, *(Text(f"[{number}] {source}") for number, source in enumerate(sources, 1)), Text("")]


def _facts(run: Scored, name: bool) -> list[str]:
    lines = [str(run.path)] if name else []
    made = made_lines(run.made)
    width = max((len(key) for key, _ in made), default=0)
    lines += [f"{key:<{width}}  {value}" for key, value in made] if made else [NOT_SAID]
    lines += _listed("not read", unread_reasons(run.unread), lambda o: f"{o.id}: {excerpt(o.answer)}")
    lines += _listed("read, with a remark", remarks(run.outcomes), lambda o: o.id)
    lines += _listed("set aside, or missing", set_aside_reasons(run.problems), _named)
    return lines


def _listed(title: str, groups: Mapping[str, list[Item]], name: Callable[[Item], str]) -> list[str]:
    """A line for each reason, with its count and a few examples."""
    lines = [f"{title}:"] if groups else []
    for reason, found in list(groups.items())[:_REASONS]:
        examples = [name(item) for item in found[:_EXAMPLES]] + ["…"] * (len(found) > _EXAMPLES)
        lines.append(f"{len(found):>9,} x {reason} ({'; '.join(examples)})")
    if len(groups) > _REASONS:
        lines.append(f"{'':>9}   and {len(groups) - _REASONS:,} other reasons; --out DIR lists them")
    return lines


def excerpt(answer: str) -> str:
    """The beginning of an answer on one line."""
    line = " ".join(answer.split())
    return f'"{line}"' if len(line) <= _SHOWN else f'"{line[:_SHOWN]}…"'


def _printable(line: str) -> str:
    """What a model or a file wrote cannot move the cursor or paint the terminal."""
    line = line.replace("\n", "\\n")
    return "".join(sign if sign.isprintable() else "�" for sign in line)


def _named(problem: Problem) -> str:
    return f"{problem.place}: {' '.join(problem.detail.split())}" if problem.detail else problem.place


def _table(first: str, *columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_flat(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_flat, value))
    return str(value)
