"""Why answers were not read or not counted, and what else was noted of them: grouped by reason."""

from __future__ import annotations

from collections.abc import Sequence

from vistune.errors import Problem
from vistune.evaluate.outcome import Outcome


def unread_reasons(unread: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Answers that could not be read, by why; the most frequent reason first."""
    return _by_reason(unread)


def remarks(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """Answers that were read, and of which a reader should know more; the most frequent remark first."""
    return _by_reason([outcome for outcome in outcomes if outcome.read is not None and outcome.note])


def detail_of(outcome: Outcome) -> str:
    """What a note says beyond its reason; may be empty."""
    return outcome.note.partition(": ")[2]


def _by_reason(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    """By what stands in a note before a colon."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.note.partition(": ")[0] or "could not be read", []).append(outcome)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))


def set_aside_reasons(problems: Sequence[Problem]) -> dict[str, list[Problem]]:
    """Problems by their reason; the most frequent first."""
    groups: dict[str, list[Problem]] = {}
    for problem in problems:
        groups.setdefault(problem.reason, []).append(problem)
    return dict(sorted(groups.items(), key=lambda item: -len(item[1])))
