"""LLaVA-Bench (COCO and In-the-Wild): a judge compares each answer with a reference (paper Sec. 5.1).

What is scored are reviews (`vistune judge`), not answers. Relative score = 100 x mean score of the candidate
/ mean score of the reference: a ratio of means, over the reviews that could be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from vistune.errors import Problem, VistuneError
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.judge.review import ReviewError, parse_scores
from vistune.evaluate.judge.rows import read_rows
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Row, Sheet
from vistune.question import Question, Questions

KINDS = ("conversation", "detail", "complex")
ALL = "all"
_PREFIX, _SHORT = "llava_bench_", {"conv": "conversation"}  # as the published files word it
_UNKNOWN = "unknown category"


class LlavaBench:
    """One of the two sets of questions."""

    takes = frozenset({"data"})
    names = (*KINDS, ALL)
    lower_is_better: frozenset[str] = frozenset()
    neither_is_better: frozenset[str] = frozenset()
    most = 1024
    headline = ALL
    judged = True

    def __init__(self, name: str, title: str, official: int) -> None:
        self.name, self.title, self.official = name, title, official

    def load(self, files: BenchFiles) -> Questions:
        """Read the published ``questions.jsonl``: ``question_id``, ``image``, ``text``, ``category``."""
        if files.data is None:
            raise VistuneError(f"{self.name} needs its questions: give --data questions.jsonl.")
        problems: list[Problem] = []
        read = [_question(place, row) for place, row in read_rows(files.data, problems)]
        questions = _each_once(read, problems)
        if not questions:
            raise VistuneError(
                f"{files.data}: holds no question. Expected JSON lines of `question_id`, `image`, `text` "
                f"and `category` (one of {', '.join(KINDS)})."
            )
        return Questions(questions, problems, self.official)

    def load_from(self, sheet: Sheet, files: BenchFiles) -> Questions:
        """The questions as far as a file of reviews knows them: id and category."""
        problems: list[Problem] = []
        questions: dict[str, Question] = {}
        for row in sheet.rows:
            self._refuse_answer(row)
            name, kind = _id_of(row), category(row.raw.get("category"))
            if kind is None:
                problems.append(Problem(row.place, _UNKNOWN, repr(row.raw.get("category"))))
            else:
                questions.setdefault(name, Question(name, "", kind=kind))
        if not questions:
            raise VistuneError(
                f"{sheet.path}: no review names a category of {', '.join(KINDS)}. "
                "Give --data questions.jsonl."
            )
        return Questions(list(questions.values()), problems, self.official)

    def key(self, questions: Sequence[Question], row: Row) -> str | None:
        """A review's own ``id`` is not its question's."""
        return _id_of(row)

    def score(self, questions: Sequence[Question], sheet: Sheet, files: BenchFiles) -> list[Outcome]:
        known = {question.id: question for question in questions}
        return [self._outcome(known[row.id], row) for row in sheet.rows]

    def _outcome(self, question: Question, row: Row) -> Outcome:
        self._refuse_answer(row)
        content = row.raw["content"]
        scored: dict[str, Any] = {"sums": {}}
        try:
            scores = parse_scores(content)
        except ReviewError as error:
            note = str(error)
        else:
            reference, candidate = scores[::-1] if _swapped(row) else scores
            pair = (candidate, reference)
            scored = {"sums": {question.kind: pair, ALL: pair}, "read": f"{scores[0]:g} {scores[1]:g}"}
            note = _disagreement(scores, row.raw.get("tuple"))
        return Outcome(
            id=question.id,
            question=question.text,
            answer=content,
            image=question.image,
            references=question.references,
            kind=question.kind,
            note=note,
            **scored,
        )

    def _refuse_answer(self, row: Row) -> None:
        if not isinstance(row.raw.get("content"), str):
            raise VistuneError(
                f"{row.place}: an answer, not a judge's review (no `content`). {self.title} is scored from "
                f"reviews: have the answers judged first, `vistune judge {self.name} ANSWERS`."
            )


BENCHES = (
    LlavaBench("llava-bench-coco", "LLaVA-Bench (COCO)", 90),
    LlavaBench("llava-bench-wild", "LLaVA-Bench (In-the-Wild)", 60),
)


def category(name: Any) -> str | None:
    """``conv``, ``llava_bench_conv``, ``conversation`` -> ``conversation``; None where it is unknown."""
    short = str(name).removeprefix(_PREFIX)
    found = _SHORT.get(short, short)
    return found if found in KINDS else None


def _swapped(row: Row) -> bool:
    """Whether the candidate stood first."""
    swapped = row.raw.get("swapped", False)
    if not isinstance(swapped, bool):
        raise VistuneError(f"{row.place}: `swapped`: expected true or false, found {swapped!r}.")
    return swapped


def _id_of(row: Row) -> str:
    return str(row.raw.get("question_id", row.id))


def _question(place: str, row: dict[str, Any]) -> tuple[str, Question | Problem]:
    name, text, image = row.get("question_id"), row.get("text"), row.get("image")
    kind = category(row.get("category"))
    if isinstance(name, bool) or not isinstance(name, str | int) or name == "":
        return place, Problem(place, "no question_id", repr(name))
    if not isinstance(text, str) or not text.strip():
        return place, Problem(place, "a question without words", f"question_id {name}")
    if image is not None and not isinstance(image, str):
        return place, Problem(place, "image is no file name", repr(image))
    if kind is None:
        return place, Problem(place, _UNKNOWN, f"question_id {name}: {row.get('category')!r}")
    return place, Question(str(name), text.strip(), image, kind=kind)


def _each_once(read: Iterable[tuple[str, Question | Problem]], problems: list[Problem]) -> list[Question]:
    """Questions by id; of two that differ and share one, neither."""
    found: dict[str, Question] = {}
    torn: set[str] = set()
    for place, item in read:
        if isinstance(item, Problem):
            problems.append(item)
        elif item.id not in found:
            found[item.id] = item
        elif found[item.id] == item:
            problems.append(Problem(place, "the same question twice; asked once", f"question_id {item.id}"))
        else:
            torn.add(item.id)
            problems.append(
                Problem(place, "two different questions of one id; neither used", f"question_id {item.id}")
            )
    return [question for name, question in found.items() if name not in torn]


def _disagreement(scores: tuple[float, float], stored: Any) -> str:
    """Where a file's own reading of a review is another than ours."""
    if stored is None or (isinstance(stored, list) and tuple(stored) == scores):
        return ""
    return f"the file reads the review as {stored}; its text says {scores[0]:g} {scores[1]:g}"
