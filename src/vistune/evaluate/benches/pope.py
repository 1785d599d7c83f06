"""POPE: is this object in the picture, yes or no (Li et al. 2023, arXiv 2305.10355).

The labels are JSON lines: ``question_id``, ``image``, ``text``, ``label``, and ``category`` where one file
holds several splits. A question's text is the question's own words, so that every model is asked the same;
who wants an instruction after it writes it into the labels' ``text``, on a line of its own.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.text import excerpt
from vistune.errors import Problem, VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.rows import first_of, first_problem, id_of, json_lines
from vistune.evaluate.benches.yes_no import read_yes_no
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Row, Sheet
from vistune.question import Question, Questions

SPLITS = ("random", "popular", "adversarial")
_SIZE, _OLD_RANDOM_SIZE = 3000, 2910  # of a split; the random one as published until October 2023
_UNREAD = "neither yes nor no in the first sentence"


class Pope:
    """Accuracy, precision, recall and F1 of *yes*, and how often *yes* is said; an unread answer is wrong.

    Unread answers say neither: wrong in accuracy, missed in recall where *yes* was right, no part of
    precision. ``f1_random`` and the like are there where the labels name their splits.
    """

    name, title = "pope", "POPE"
    takes = frozenset({"data"})
    names = ("accuracy", "precision", "recall", "f1", "yes_share", *(f"f1_{split}" for split in SPLITS))
    lower_is_better: frozenset[str] = frozenset()
    neither_is_better: frozenset[str] = frozenset({"yes_share"})
    most = 32
    headline = "f1"
    judged = False

    def __init__(self) -> None:
        self._index: _Index | None = None

    def load(self, files: BenchFiles) -> Questions:
        """The questions of a file of labels.

        Raises:
            VistuneError: no file is given, it cannot be read, it has two questions of one id, or none.
        """
        if files.data is None:
            raise VistuneError("pope needs its labels: pass --data coco_pope_popular.json.")
        problems: list[Problem] = []
        questions = _with_own_ids(list(_unrepeated(files.data, problems)))
        if not questions:
            raise VistuneError(
                f"{files.data}: no label of POPE; expected lines of `question_id`, `image`, `text`, `label`."
                + first_problem(problems)
            )
        return Questions(questions, problems, _official(questions))

    def key(self, questions: Sequence[Question], row: Row) -> str | None:
        """The id of the question that ``row`` answers: its picture's and its words', if it tells them.

        Published answers have ids of their own, so an id decides only where picture or words are missing,
        or are asked in several splits; and not where what is there is another question's.
        """
        if self._index is None or self._index.questions is not questions:
            self._index = _Index(questions)
        return self._index.find(row)

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        """What was read of each answer, and what it adds to each measure."""
        known = {question.id: question for question in questions}
        return [_outcome(known[row.id], row.text) for row in sheet.rows]


def _unrepeated(path: Path, problems: list[Problem]) -> Iterator[Question]:
    seen: dict[tuple[str, str], tuple[str, Question]] = {}
    for record in json_lines(path):
        question = record if isinstance(record, Problem) else _question(record.value, record.place)
        if isinstance(question, Problem):
            problems.append(question)
            continue
        assert not isinstance(record, Problem)
        place, known = seen.setdefault((question.kind, question.id), (record.place, question))
        if place == record.place:
            yield question
        elif known == question:
            problems.append(
                Problem(record.place, "the same question twice; counted once", f"id {question.id}")
            )
        else:
            raise VistuneError(
                f"{record.place}: id {question.id} is another question's: {place}. Several splits in one file"
                " need a `category` on each line (random, popular, adversarial); or pass one split."
            )


def _question(row: Any, place: str) -> Question | Problem:
    name, image, text = id_of(row), first_of(row, "image"), first_of(row, "text", "question")
    label = first_of(row, "label", "answer")
    label = label.strip().lower() if isinstance(label, str) else label
    if name is None or not isinstance(image, str) or not isinstance(text, str):
        return Problem(place, "no label of POPE (question_id, image, text, label)", excerpt(row))
    if label not in ("yes", "no"):
        return Problem(place, "label is neither yes nor no", excerpt(label))
    return Question(name, text, image, (label,), _kind(row))


def _with_own_ids(questions: list[Question]) -> list[Question]:
    """The same; where splits count from 1 each, ``popular-1`` in place of 1."""
    if len({question.id for question in questions}) == len(questions):
        return questions
    return [replace(question, id=f"{question.kind}-{question.id}") for question in questions]


def _official(questions: Sequence[Question]) -> int:
    sizes = Counter(question.kind for question in questions)
    old = sum(size == _OLD_RANDOM_SIZE and kind in ("", "random") for kind, size in sizes.items())
    return _SIZE * len(sizes) - (_SIZE - _OLD_RANDOM_SIZE) * old


class _Index:
    """Questions by id, and by picture and words."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self.questions = questions
        self._by_id = {question.id: question for question in questions}
        self._asked: dict[tuple[str, str], list[Question]] = defaultdict(list)
        for question in questions:
            self._asked[_file(question.image), _words(question.text)].append(question)

    def find(self, row: Row) -> str | None:
        file, words, kind = _file(first_of(row.raw, "image")), _words(_asked_in(row.raw)), _kind(row.raw)
        if file and words:
            same = self._asked.get((file, words), [])
        else:
            known = self._by_id.get(row.id) or self._by_id.get(f"{kind}-{row.id}")
            same = [known] if known else []
            same = [q for q in same if file in ("", _file(q.image)) and words in ("", _words(q.text))]
        if len(same) > 1:
            same = [q for q in same if q.id == row.id] or [q for q in same if q.kind == kind]
        return same[0].id if len(same) == 1 else None


def _asked_in(raw: Mapping[str, Any]) -> Any:
    """The question that a row of answers repeats; its ``text`` is one only beside an ``answer``."""
    return first_of(raw, "question", "prompt", *(("text",) if "answer" in raw else ()))


def _words(text: Any) -> str:
    """A question fit to be compared: up to its question mark, without placeholder, case or line breaks."""
    if not isinstance(text, str):
        return ""
    line = text.replace(IMAGE_PLACEHOLDER, " ").strip().split("\n")[0]
    return " ".join(line.partition("?")[0].casefold().split())


def _file(image: Any) -> str:
    return Path(image).name if isinstance(image, str) else ""


def _kind(row: Mapping[str, Any]) -> str:
    kind = first_of(row, "category", "split", "kind")
    return kind.strip().lower() if isinstance(kind, str) else ""


def _outcome(question: Question, answer: str) -> Outcome:
    (label,) = question.references
    read = read_yes_no(answer)
    note = "" if read else _UNREAD if answer.strip() else "empty answer"
    sums = _sums(label, read, question.kind)
    return Outcome(
        question.id,
        question.text,
        answer,
        sums,
        question.image,
        question.references,
        question.kind,
        read,
        read == label,
        note,
    )


def _sums(label: str, read: str | None, kind: str) -> dict[str, tuple[float, float]]:
    hit = label == read == "yes"
    errors = (label == "yes") + (read == "yes") - 2 * hit  # missed, or said in vain
    sums = {"accuracy": (float(read == label), 1.0), "yes_share": (float(read == "yes"), 1.0)}
    if read == "yes":
        sums["precision"] = (float(hit), 1.0)
    if label == "yes":
        sums["recall"] = (float(hit), 1.0)
    if hit or errors:
        sums["f1"] = (2.0 * hit, 2.0 * hit + errors)
        if kind in SPLITS:
            sums[f"f1_{kind}"] = sums["f1"]
    return sums


BENCHES = (Pope(),)
