"""A comparison on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from vistune.errors import count_by_reason
from vistune.evaluate.compare.settings import Setting
from vistune.evaluate.table import render

if TYPE_CHECKING:
    from vistune.evaluate.compare.run import Compared

_WIDEST, _BEFORE = 60, 12  # characters of a setting; of those, before two settings part
_TESTS = {
    "mcnemar": "McNemar's exact test where a question is right or wrong",
    "swap": "a test by random swaps of the two runs' outcomes",
}
PROMPTS_DIFFER = "The prompts differ: what is compared is model and prompt together."


def table(compared: Compared) -> str:
    """Both runs, how many questions are compared, what was done differently, and each measure."""
    return render(_parts(compared))


def coverage(compared: Compared) -> list[str]:
    """Over how many questions, and which are left out; in sentences."""
    common, told = compared.common, []
    told.append(f"Compared over {len(common.a):,} of {common.whole:,} questions: those that both answered.")
    told += [
        f"{count:,} more {'was' if count == 1 else 'were'} answered by {run} alone."
        for run, count in (("A", common.only_a), ("B", common.only_b))
        if count
    ]
    told += [f"Left out: {count:,} {reason}." for reason, count in count_by_reason(common.problems).items()]
    if common.other_words:
        told.append(f"Asked in other words in the two runs: {common.other_words:,}.")
    return told


def reading(compared: Compared) -> list[str]:
    """How to read the figures; in sentences."""
    measures = compared.measures
    told = ["Intervals: paired bootstrap over questions, for each measure alone."]
    tests = [text for test, text in _TESTS.items() if any(measure.test == test for measure in measures)]
    told.append(f"Verdicts: {'; elsewhere '.join(tests)}.")
    corrected = [measure for measure in measures if measure.name != compared.headline]
    if len(corrected) > 1:
        told.append(
            f"p is corrected for {len(corrected)} measures looked at together (Holm), so a verdict may show "
            "no difference where a measure's own interval misses zero."
        )
        if len(corrected) < len(measures):
            told.append(f"{compared.headline} is tested alone.")
    told += [f"{name}: not compared, it {why}." for name, why in compared.dropped.items()]
    if left_out := [f"{m.name} {m.left_out:,}" for m in measures if m.left_out]:
        told.append(f"Questions left out because the other run has no score for them: {', '.join(left_out)}.")
    return told


def _parts(compared: Compared) -> Iterable[RenderableType]:
    yield Text(compared.a.title, style="bold")
    for letter, run in zip("AB", compared.runs, strict=True):
        yield _line(f"{letter}  {run.name}: {len(run.outcomes):,} answered ({run.folder})")
    yield from map(_line, coverage(compared))
    if compared.settings:
        yield _settings(compared.settings)
    if compared.silent:
        yield _line(silence(compared.silent))
    if compared.prompts_differ:
        yield Text(PROMPTS_DIFFER, style="bold red")
    yield _measures(compared)
    yield from map(_line, reading(compared))


def _settings(settings: Sequence[Setting]) -> Table:
    table = Table("made differently", "A", "B", box=SIMPLE_HEAD, pad_edge=False)
    for setting in settings:
        table.add_row(*map(_line, (setting.name, *_short(setting.a, setting.b))))
    return table


def _measures(compared: Compared) -> Table:
    with_alone = any(m.only_a is not None for m in compared.measures)
    alone = ["right alone A", "B"] if with_alone else []
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("measure", "A", "B", "B - A", "95% interval", "questions", *alone, "p", "verdict"):
        table.add_column(name, justify="left" if name in ("measure", "verdict") else "right", no_wrap=True)
    for m in compared.measures:
        table.add_row(
            _line(m.name + {1: "", -1: " ↓", 0: " (neither is better)"}[m.better]),
            f"{m.a:.2f}",
            f"{m.b:.2f}",
            signed(m.difference),
            f"{signed(m.low)} to {signed(m.high)}",
            f"{m.count:,}",
            *(["" if count is None else f"{count:,}" for count in (m.only_a, m.only_b)] if alone else []),
            probability(m.corrected),
            m.verdict,
            style="bold" if m.name == compared.headline else "",
        )
    return table


def silence(runs: Sequence[str]) -> str:
    """That nobody wrote down how ``runs``, A or B, were made; empty where they did."""
    made = "were made" if len(runs) > 1 else "was made"
    return f"How {' and '.join(runs)} {made} is not written down." if runs else ""


def signed(points: float) -> str:
    """``+1.20``; never a negative zero."""
    return f"{round(points, 2) + 0.0:+.2f}"


def probability(p: float) -> str:
    """``0.031``, or ``<0.001``."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _short(a: str, b: str) -> tuple[str, str]:
    """Both texts in one short line; from where they part, if only their ends differ."""
    a, b = " ".join(a.split()), " ".join(b.split())
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
    if same > _WIDEST // 2 and max(len(a), len(b)) > _WIDEST:
        a, b = ("…" + text[same - _BEFORE :] for text in (a, b))
    return _cut(a), _cut(b)


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _line(text: str) -> Text:
    """One line that changes nothing of the terminal."""
    words = " ".join(text.split())
    return Text("".join(sign if sign.isprintable() else "�" for sign in words))
