"""VQA: short answers, held against those of ten people (Goyal et al. 2017, arXiv 1612.00837)."""

from __future__ import annotations

from collections.abc import Sequence

from vistune.errors import VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.vqa_files import TEN, annotate, read_questions
from vistune.evaluate.benches.vqa_text import normalise
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Sheet
from vistune.question import Question, Questions

TYPES = ("yes/no", "number", "other")
_ENOUGH = 3  # people who say the same make an answer wholly right


class Vqa:
    """Ten-answer accuracy, overall and by type of answer, and exact match with any reference.

    Accuracy is of questions with ten references; ``exact`` is of all. Both compare normalised answers,
    whether or not the ten agree (the reference code compares raw answers where they do).
    """

    name, title = "vqa", "VQA"
    takes = frozenset({"data", "annotations"})
    names = ("accuracy", *TYPES, "exact")
    lower_is_better: frozenset[str] = frozenset()
    neither_is_better: frozenset[str] = frozenset()
    most = 16
    headline = "accuracy"
    judged = False

    def load(self, files: BenchFiles) -> Questions:
        """Questions, with their references where annotations are given or lines hold them.

        Raises:
            VistuneError: no file is given, one cannot be read, or no question is left.
        """
        if files.data is None:
            raise VistuneError(
                "vqa needs its questions: pass --data v2_OpenEnded_mscoco_val2014_questions.json."
            )
        questions = read_questions(files.data)
        return annotate(questions, files.annotations) if files.annotations else questions

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        """How far each answer agrees with its references.

        Raises:
            VistuneError: there are no references.
        """
        if not any(question.references for question in questions):
            raise VistuneError(
                f"{files.data}: no human answers to score with. Pass --annotations"
                " v2_mscoco_val2014_annotations.json, or lines with `answers`."
            )
        known = {question.id: question for question in questions}
        return [_outcome(known[row.id], row.text) for row in sheet.rows]


def ten_answer_accuracy(answer: str, references: Sequence[str]) -> float:
    """The mean over the subsets that leave one person out of min(1, matches / 3): 0, 0.3, 0.6, 0.9 or 1.

    Args:
        answer, references: normalised.
    """
    people, matches = len(references), references.count(answer)
    without_match, without_other = min(_ENOUGH, matches - 1), min(_ENOUGH, matches)
    return (matches * without_match + (people - matches) * without_other) / (_ENOUGH * people)


def _outcome(question: Question, answer: str) -> Outcome:
    read = normalise(answer) if answer.strip() else None
    references = [normalise(reference) for reference in question.references]
    right = read in references
    sums = {"exact": (float(right), 1.0)}
    if len(references) == TEN:
        accuracy = 0.0 if read is None else ten_answer_accuracy(read, references)
        sums["accuracy"] = (accuracy, 1.0)
        if question.kind in TYPES:
            sums[question.kind] = (accuracy, 1.0)
    return Outcome(
        question.id,
        question.text,
        answer,
        sums,
        question.image,
        question.references,
        question.kind,
        read,
        right,
        "" if read is not None else "empty answer",
    )


BENCHES = (Vqa(),)
