"""ScienceQA (Lu et al., 2022; paper Table 7): accuracy by subject, context and grade."""

from __future__ import annotations

from collections.abc import Sequence

from vistune.data.scienceqa.problem import ScienceProblem
from vistune.data.scienceqa.problems import official_size, read_problems
from vistune.data.scienceqa.prompt import question_text
from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import Bench, BenchFiles
from vistune.evaluate.benches.letter import Reading, read_index, read_letter
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Row, Sheet
from vistune.question import Question, Questions

COLUMNS: tuple[str, ...] = ("NAT", "SOC", "LAN", "TXT", "IMG", "NO", "G1-6", "G7-12", "Avg")
_YOUNGEST_OF_THE_OLDER = 7  # grade


class ScienceQa:
    """Multiple choice, read strictly; see :mod:`vistune.evaluate.benches.letter`."""

    name = "scienceqa"
    title = "ScienceQA"
    takes: frozenset[str] = frozenset({"data", "splits", "split", "stored_indices"})
    names = COLUMNS
    lower_is_better: frozenset[str] = frozenset()
    neither_is_better: frozenset[str] = frozenset()
    most = 1024  # a lecture and a solution come before the answer
    headline = "Avg"
    judged = False

    def load(self, files: BenchFiles) -> Questions:
        """The problems of a split.

        A question's ``details``: ``choices``, how many; ``columns``, those that count it; ``picture_last``,
        that it stands behind the words.
        """
        if files.data is None:
            raise VistuneError("scienceqa needs its problems: give --problems FILE.")
        found = read_problems(files.data, files.splits, files.split)
        questions = [_question(problem) for problem in found.problems]
        part = "" if files.split in (None, "test") else files.split
        return Questions(questions, found.set_aside, official_size(files.split), part or "")

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        """1 for each right answer in every column that counts its question; see :class:`Bench`.

        Raises:
            VistuneError: stored indices are wanted, and the file holds none.
        """
        if files.stored_indices and all(row.raw.get("index") is None for row in sheet.rows):
            raise VistuneError(f"{sheet.path}: holds no answer indices. Leave --stored-indices out.")
        by_id = {question.id: question for question in questions}
        return [_outcome(by_id[row.id], row, files.stored_indices) for row in sheet.rows]


def _question(problem: ScienceProblem) -> Question:
    details = {"choices": len(problem.choices), "columns": columns_of(problem), "picture_last": True}
    return Question(
        problem.id, question_text(problem), problem.image, (problem.letter,), problem.subject, details
    )


def columns_of(problem: ScienceProblem) -> tuple[str, ...]:
    """The columns that count a problem; one with both a context and a picture counts in TXT and in IMG."""
    has_image = problem.image is not None
    contexts = {"TXT": problem.has_text, "IMG": has_image, "NO": not (problem.has_text or has_image)}
    older = problem.grade >= _YOUNGEST_OF_THE_OLDER
    of_context = (name for name, counts in contexts.items() if counts)
    return (problem.subject, *of_context, "G7-12" if older else "G1-6", "Avg")


def _outcome(question: Question, row: Row, stored: bool) -> Outcome:
    choices = question.details["choices"]
    of_text = read_letter(row.text, choices)
    reading, note = of_text, of_text.why
    if stored:
        reading = read_index(row.raw.get("index"), choices)
        note = reading.why or _other(of_text, reading)
    right = reading.letter == question.references[0]
    return Outcome(
        id=question.id,
        question=question.text,
        answer=row.text,
        sums={name: (float(right), 1.0) for name in question.details["columns"]},
        image=question.image,
        references=question.references,
        kind=question.kind,
        read=reading.letter,
        right=right,
        note=note,
    )


def _other(of_text: Reading, stored: Reading) -> str:
    """What a reader should know of a text from which its stored index does not follow."""
    if of_text.letter == stored.letter:
        return ""
    return f"the text itself: {of_text.why or f'answers {of_text.letter}'}"


BENCHES: tuple[Bench, ...] = (ScienceQa(),)
