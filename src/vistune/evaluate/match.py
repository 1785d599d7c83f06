"""Whose answers a sheet holds: joined with a benchmark's questions, and refused where it answers none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from vistune.errors import Problem, VistuneError
from vistune.evaluate.benches.bench import Bench
from vistune.evaluate.sheet import Joined, Row, Sheet, join
from vistune.question import Question

OTHER_WORDS = "answers another question that has this id"
_EXAMPLES = 3  # ids named in a message


def match(bench: Bench, questions: Sequence[Question], sheet: Sheet) -> Joined:
    """Join a sheet by the benchmark's own key where it has one, else by id.

    By id, a row that tells its ``question`` must tell the benchmark's: ids that only count (lines of a file)
    are the same in every split.

    Raises:
        VistuneError: nothing in the sheet answers a question.
    """
    key = getattr(bench, "key", None)
    joined = join(questions, sheet, partial(key, questions)) if key else join(questions, sheet)
    if not key:
        joined = _of_these_words(questions, joined)
    if not joined.sheet.rows:
        raise VistuneError(_none_counted(bench, questions, sheet, joined))
    return joined


def _of_these_words(questions: Sequence[Question], joined: Joined) -> Joined:
    known = {question.id: question for question in questions}
    other = {row.id: row for row in joined.sheet.rows if _tells_another(row, known[row.id])}
    if not other:
        return joined
    rows = [row for row in joined.sheet.rows if row.id not in other]
    unanswered = {question.id for question in joined.missing} | other.keys()
    missing = [question for question in questions if question.id in unanswered]
    problems = [
        Problem(row.place, OTHER_WORDS, f"id {row.id}: {row.raw['question']}") for row in other.values()
    ]
    return Joined(replace(joined.sheet, rows=rows), missing, [*joined.problems, *problems])


def _tells_another(row: Row, question: Question) -> bool:
    """Whether a row's ``question`` is not the benchmark's; one may add instructions to the other."""
    told = row.raw.get("question")
    if not isinstance(told, str):
        return False
    a, b = _plain(told), _plain(question.text)
    return a not in b and b not in a


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _none_counted(bench: Bench, questions: Sequence[Question], sheet: Sheet, joined: Joined) -> str:
    torn = [problem for problem in joined.problems if problem.reason.startswith("two different answers")]
    if torn:
        return (
            f"{sheet.path}: no answer can be counted: {torn[0].place}: {torn[0].reason} ({torn[0].detail})."
        )
    theirs, known = [row.id for row in sheet.rows], [question.id for question in questions]
    return (
        f"{sheet.path}: none of its {len(theirs):,} answers is to one of the {len(known):,} questions of "
        f"{bench.title}: answers of another split, or of another benchmark? It answers {_few(theirs)}; "
        f"the questions are {_few(known)}."
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:_EXAMPLES]) + (", …" if len(names) > _EXAMPLES else "")
