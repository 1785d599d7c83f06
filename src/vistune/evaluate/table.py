"""Scores as tables on a terminal; as text elsewhere, never cut to a width."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from vistune.errors import Problem
from vistune.evaluate.measure import Measure
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.published import Published
from vistune.evaluate.reasons import detail_of, remarks, set_aside_reasons, unread_reasons
from vistune.evaluate.score import Scored

Item = TypeVar("Item")
_WIDE = 10_000  # columns: a table is as wide as its content
_EXAMPLES, _SHOWN = 3, 60  # named for each reason; characters of an answer
_REASONS = 8  # told of each heading
NOT_SAID = "nobody wrote down how these answers were made"
NOTHING = "no answer could be read: there is no score"


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
    if not any(run.measures for run in runs):
        parts.append(Text(NOTHING, style="bold red"))
    else:
        parts.append(one_table(runs[0], blind) if len(runs) == 1 else runs_table(runs))
    if published:
        parts += _beside(runs, published)
    return [*parts, *(Text(_printable(line)) for line in _facts(runs))]


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
    numbers = (f"run {number}" for number in range(1, len(runs) + 1))
    table = _table("measure", *numbers, "mean", "95% interval", "spread", "questions")
    for name, mean in measures_of(runs).items():
        values = [cell(run.measures.get(name)) for run in runs]
        style = "bold" if name == runs[0].bench.headline else ""
        table.add_row(
            titled(name, runs[0].bench.lower_is_better),
            *values,
            f"{mean.value:.2f}",
            f"{mean.low:.2f} to {mean.high:.2f}",
            f"±{deviations[name]:.2f}" if name in deviations else "",
            f"{mean.count:,}",
            style=style,
        )
    return table


def measures_of(runs: Sequence[Scored]) -> dict[str, Measure]:
    """Each measure; of several runs, their mean."""
    if len(runs) == 1:
        return runs[0].measures
    from vistune.evaluate.runs import means

    return means([run.measures for run in runs], [run.outcomes for run in runs])


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


def _beside(runs: Sequence[Scored], published: Sequence[Published]) -> list[RenderableType]:
    values = {name: measure.value for name, measure in measures_of(runs).items()}
    names = [name for name in values if any(name in row.scores for row in published)]
    sources = sources_of(published)
    table = _table("beside the published", *names, "source")
    own = "these answers" if len(runs) == 1 else f"these answers, mean of {len(runs)} runs"
    table.add_row(own, *(f"{values[name]:.2f}" for name in names), "", style="bold")
    for row in published:
        table.add_row(row.model, *map(row.cell, names), f"[{sources.index(source_of(row)) + 1}]")
    return [table, *(Text(f"[{number}] {source}") for number, source in enumerate(sources, 1)), Text("")]


def _facts(runs: Sequence[Scored]) -> Iterator[str]:
    """How answers were made, once where it is the same of all runs, and what of each is not plain."""
    alike = all(run.made == runs[0].made for run in runs)
    if alike:
        yield from _made(runs[0])
    for run in runs:
        lines = [*([] if alike else _made(run)), *_remarkable(run)]
        yield from [str(run.path)] if len(runs) > 1 and lines else []
        yield from lines


def _made(run: Scored) -> list[str]:
    made = made_lines(run.made)
    width = max((len(key) for key, _ in made), default=0)
    return [f"{key:<{width}}  {value}" for key, value in made] or [NOT_SAID]


def _remarkable(run: Scored) -> list[str]:
    return [
        *_listed("not read", unread_reasons(run.unread), lambda o: f"{o.id}: {excerpt(o.answer)}"),
        *_listed("read, with a remark", remarks(run.outcomes), _remark),
        *_listed("set aside, or missing", set_aside_reasons(run.problems), _named),
    ]


def _remark(outcome: Outcome) -> str:
    detail = detail_of(outcome)
    return f"{outcome.id}: {detail}" if detail else outcome.id


def _listed(title: str, groups: Mapping[str, list[Item]], name: Callable[[Item], str]) -> list[str]:
    """A line for each reason, with its count and a few examples."""
    lines = [f"{title}:"] if groups else []
    for reason, found in list(groups.items())[:_REASONS]:
        examples = [name(item) for item in found[:_EXAMPLES]] + ["…"] * (len(found) > _EXAMPLES)
        lines.append(f"{len(found):>9,} x {reason} ({'; '.join(examples)})")
    if len(groups) > _REASONS:
        lines.append(f"{'':>9}   more reasons: {len(groups) - _REASONS:,}; --out DIR lists them")
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
