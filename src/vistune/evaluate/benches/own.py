"""Your own questions, scored by exact match; see :mod:`vistune.data.questions` for what is read."""

from __future__ import annotations

from collections.abc import Sequence

from vistune.data.questions import ALL, MOST, is_right, read_questions
from vistune.data.teachers.scripted import QUESTION_KINDS
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Sheet
from vistune.question import Question, Questions


class OwnData:
    """Any file of questions. Each kind of question is a measure, and ``all`` is over all of them."""

    name = "own"
    title = "own data"
    takes = frozenset({"data"})
    names: tuple[str, ...] = ()
    lower_is_better: frozenset[str] = frozenset()
    neither_is_better: frozenset[str] = frozenset()
    most = MOST
    headline = ALL
    judged = False

    def load(self, files: BenchFiles) -> Questions:
        """The questions; malformed records are set aside.

        A question without a kind is of the offline teacher's kind that it reads like, or ``other``.

        Raises:
            VistuneError: the file cannot be read, two questions have one id, or no question is left.
        """
        if files.data is None:
            raise VistuneError("own needs --data FILE: questions and their answers.")
        return read_questions(files.data)

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        """An answer is right where it matches any of the references."""
        answers = {row.id: row.text for row in sheet.rows}
        return [_outcome(q, answers[q.id]) for q in questions if q.id in answers]

    def order(self, outcomes: Sequence[Outcome]) -> list[str]:
        """The measures: the offline teacher's kinds, then others by name, then ``all``."""
        found = {outcome.kind for outcome in outcomes}
        ours = [kind for kind in QUESTION_KINDS if kind in found]
        return [*ours, *sorted(found.difference(ours)), ALL]


def _outcome(question: Question, answer: str) -> Outcome:
    read = answer.strip() or None
    right = is_right(question, answer)
    one = (float(right), 1.0)
    return Outcome(
        question.id,
        question.text,
        answer,
        {question.kind: one, ALL: one},
        question.image,
        question.references,
        question.kind,
        read,
        right,
        "" if read else "empty answer",
    )


BENCHES = (OwnData(),)
