"""The judge at work: requests, reviews, files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vistune.errors import Problem, VistuneError, write_problems
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.llava_bench import BENCHES, KINDS, LlavaBench
from vistune.evaluate.judge import record
from vistune.evaluate.judge.cases import Case, Cases, load_cases
from vistune.evaluate.judge.options import JudgeOptions
from vistune.evaluate.judge.request import DEFAULT_PARAMETERS, JudgePrompt, load_judge_prompt
from vistune.evaluate.judge.review import ReviewError, parse_scores
from vistune.evaluate.measure import Measure, measures
from vistune.evaluate.outcome import Outcome
from vistune.evaluate.sheet import Row, Sheet
from vistune.llm.asking import Asked, ask_all, parameters, seeded
from vistune.llm.request import ChatReply, ChatRequest

SET_ASIDE = "set_aside.jsonl"
REFUSED = "refused by the judge"


@dataclass(frozen=True)
class Place:
    """One review to get: of which run, which question, and does the candidate stand first?"""

    run: int
    swapped: bool
    case: Case

    @property
    def name(self) -> str:
        return f"run {self.run}{', swapped' if self.swapped else ''}, question {self.case.question.id}"

    @property
    def answers(self) -> tuple[str, str]:
        """Of assistant 1 and of assistant 2: reference and candidate."""
        pair = self.case.reference.text, self.case.candidate.text
        return pair[::-1] if self.swapped else pair


@dataclass(frozen=True)
class JudgedRun:
    """One run's reviews, scored.

    Attributes:
        swapped: the candidate stood first.
        path: its file of reviews.
        outcomes: of the questions that have a review, in their order.
    """

    number: int
    swapped: bool
    path: Path
    outcomes: list[Outcome]
    measures: dict[str, Measure]


@dataclass(frozen=True)
class Judged:
    """What judging came to.

    Attributes:
        runs: with ``swap``, each is followed by its swapped one.
        problems: of the files, and reviews that are missing or could not be read.
        asked_again: reviews that took more than one reply.
        stopped: why not all was judged; the reviews so far are written.
    """

    bench: LlavaBench
    cases: Cases
    runs: list[JudgedRun]
    problems: list[Problem]
    asked_again: int
    spent: str
    stopped: VistuneError | None


class _Asking:
    """Makes the requests of all places, and another one where a reply holds no scores."""

    def __init__(self, options: JudgeOptions, prompt: JudgePrompt, places: Mapping[str, Place]) -> None:
        self._options, self._prompt, self._places = options, prompt, places
        self.parameters = parameters(options.param, DEFAULT_PARAMETERS)
        self.attempts: dict[str, int] = {}  # replies so far to each place

    def request(self, name: str, attempt: int = 0) -> ChatRequest:
        place = self._places[name]
        question = place.case.question
        messages = self._prompt.messages(question.kind, place.case.context, question.text, *place.answers)
        return seeded(self._options.model, messages, self.parameters, f"{name}, attempt {attempt}")

    def again(self, name: str, reply: ChatReply, asked: int) -> ChatRequest | None:
        self.attempts[name] = asked
        if asked < self._options.attempts and _flaw(reply):
            return self.request(name, asked)
        return None


def judge(options: JudgeOptions) -> Judged:
    """Judge all answers ``options.runs`` times; a run that was cut short goes on.

    Writes ``reviews_run1.jsonl`` ... (and ``reviews_run1_swapped.jsonl`` ...), ``set_aside.jsonl``, and
    ``evaluation.json``: how the reviews were made.

    Raises:
        VistuneError: a file or option cannot be used, ``out`` holds something else, or there is no review.
    """
    bench = _find(options.bench)
    prompt = load_judge_prompt(options.prompt, KINDS)
    cases = load_cases(bench, options.data, options.context, options.references, options.answers)
    places = {place.name: place for place in _places(options, cases)}
    asking = _Asking(options, prompt, places)
    record.begin(options, asking.parameters, prompt)
    try:
        requests = {name: asking.request(name) for name in places}
        asked = ask_all(requests, options, "judging", asking.again)
        if not asked.replies:
            raise asked.stopped or _nothing(asked)
    except VistuneError:
        record.forget(options.out)
        raise
    return _write(options, bench, cases, places, asking, prompt, asked)


def _write(
    options: JudgeOptions,
    bench: LlavaBench,
    cases: Cases,
    places: Mapping[str, Place],
    asking: _Asking,
    prompt: JudgePrompt,
    asked: Asked,
) -> Judged:
    runs, problems = [], [*cases.problems, *asked.problems]
    for number, swapped in dict.fromkeys((place.run, place.swapped) for place in places.values()):
        rows = []
        for name, place in places.items():
            if (place.run, place.swapped) == (number, swapped) and name in asked.replies:
                reply = asked.replies[name]
                rows.append(_row(options, place, reply, asking.attempts[name], prompt))
                if flaw := _flaw(reply):
                    problems.append(Problem(name, *flaw))
        path = options.out / f"reviews_run{number}{'_swapped' if swapped else ''}.jsonl"
        _write_rows(path, rows)
        outcomes = _score(bench, cases, path, rows)
        runs.append(JudgedRun(number, swapped, path, outcomes, measures(outcomes, bench.names)))
    write_problems(options.out / SET_ASIDE, problems)
    again = sum(asking.attempts[name] > 1 for name in asked.replies)
    return Judged(bench, cases, runs, problems, again, asked.spent, asked.stopped)


def _row(
    options: JudgeOptions, place: Place, reply: ChatReply, attempts: int, prompt: JudgePrompt
) -> dict[str, Any]:
    """A review as it is written, by the published files' names where they have one."""
    try:
        scores = list(parse_scores(reply.text))
    except ReviewError:
        scores = None
    rows = (place.case.reference, place.case.candidate)
    first, second = (row.raw.get("answer_id") for row in (rows[::-1] if place.swapped else rows))
    return {
        "question_id": place.case.question.id,
        "category": place.case.question.kind,
        "answer1_id": first,
        "answer2_id": second,
        "content": reply.text,
        "tuple": scores,
        "swapped": place.swapped,
        "attempts": attempts,
        "prompt": prompt.digest,
        "judge": options.model,
    }


def _flaw(reply: ChatReply) -> tuple[str, str] | None:
    """Why a reply is no review: reason and detail."""
    try:
        parse_scores(reply.text)
    except ReviewError as error:
        return (REFUSED, reply.text[:80]) if reply.refused else (error.reason, error.detail)
    return None


def _score(bench: LlavaBench, cases: Cases, path: Path, rows: list[dict[str, Any]]) -> list[Outcome]:
    sheet = Sheet(path, [Row(row["question_id"], row["content"], str(path), row) for row in rows])
    return bench.score(cases.questions.questions, sheet, BenchFiles())


def _places(options: JudgeOptions, cases: Cases) -> Iterator[Place]:
    for run in range(1, options.runs + 1):
        for swapped in (False, True) if options.swap else (False,):
            for case in cases.cases:
                yield Place(run, swapped, case)


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    part.replace(path)


def _find(name: str) -> LlavaBench:
    found = [bench for bench in BENCHES if bench.name == name]
    if not found:
        raise VistuneError(
            f"{name}: no benchmark that takes a judge. There are "
            f"{', '.join(bench.name for bench in BENCHES)}."
        )
    return found[0]


def _nothing(asked: Asked) -> VistuneError:
    first = asked.problems[0]
    return VistuneError(
        f"No review could be got of {len(asked.problems)}. The first, {first.place}: {first.reason}: "
        f"{first.detail}"
    )
