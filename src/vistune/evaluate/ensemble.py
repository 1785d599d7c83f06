"""A model and a text-only LLM together on ScienceQA (paper Sec. 5.2, Table 7).

*Complement*: the LLM's answer, and the model's where the LLM's cannot be read. *Judge*: where the two differ,
the LLM is asked again, with the question and both answers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.data.records import writing
from vistune.errors import Problem, VistuneError, count_by_reason, write_problems
from vistune.evaluate.benches.bench import BenchFiles
from vistune.evaluate.benches.scienceqa import ScienceQa
from vistune.evaluate.decide import Answer, Decision, answer_to, complement, differ
from vistune.evaluate.sheet import NO_ANSWER, join, read_sheet
from vistune.evaluate.text_only import Dispute, ask_for_answers, made_with, settle
from vistune.llm.asking import Asked
from vistune.llm.options import AskOptions
from vistune.question import Question, Questions

RULES = ("complement", "judge")


def run_ensemble(
    rule: str,
    predictions: Path,
    llm_predictions: Path | None,
    files: BenchFiles,
    out: Path,
    asking: AskOptions | None = None,
) -> Iterator[str]:
    """Write ``out`` in the form of ScienceQA's predictions; yields what is told.

    What could not be used is listed beside it, in ``NAME.set_aside.jsonl``. The same command may run again:
    replies that were paid for are kept.

    Args:
        rule: complement or judge.
        predictions: the model's answers.
        llm_predictions: the LLM's; None asks it for them.
        files: the problems, and which split of them.
        asking: the LLM; it judges, and answers where it has not yet.

    Raises:
        VistuneError: options contradict or would be ignored; a file cannot be read, answers no question, or
            is another run's; the LLM could not be asked to the end, and ``out`` is not written.
    """
    _refuse(rule, llm_predictions, files, asking)
    questions = ScienceQa().load(files)
    made = _made(rule, predictions, llm_predictions, files, asking)
    _refuse_other(out, made)
    ensemble = _Ensemble(questions, made)
    ensemble.read_model(predictions)
    if llm_predictions is not None:
        ensemble.read_llm(llm_predictions)
    else:
        assert asking is not None
        yield from ensemble.ask_llm(asking)
    if rule == "complement":
        ensemble.complement()
    else:
        assert asking is not None
        yield from ensemble.judge(asking)
    with writing(out):
        ensemble.write(out)
    yield from ensemble.told(out)


@dataclass
class _Ensemble:
    questions: Questions
    made: Mapping[str, Any]
    model: dict[str, Answer] = field(default_factory=dict)
    llm: dict[str, Answer] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)  # questions on which the LLM gave no reply
    decisions: dict[str, Decision] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def read_model(self, path: Path) -> None:
        self.model = self._read(path, "the model has no answer")

    def read_llm(self, path: Path) -> None:
        self.llm = self._read(path, "the LLM has no answer")

    def ask_llm(self, asking: AskOptions) -> Iterator[str]:
        asked = ask_for_answers(self.questions.questions, asking)
        yield from self._took(asked)
        by_id = {question.id: question for question in self.questions.questions}
        self.llm = {name: answer_to(by_id[name], reply.text) for name, reply in asked.replies.items()}

    def complement(self) -> None:
        for question in self.questions.questions:
            self._decide(question, complement(self.model.get(question.id), self.llm.get(question.id)))

    def judge(self, asking: AskOptions) -> Iterator[str]:
        disputes = {
            question.id: Dispute(question, self.model[question.id].text, self.llm[question.id].text)
            for question in self.questions.questions
            if differ(self.model.get(question.id), self.llm.get(question.id))
        }
        asked = settle(disputes.values(), asking)
        yield from self._took(asked)
        for question in self.questions.questions:
            reply = asked.replies.get(question.id)
            self._decide(question, self._judged(question, reply.text if reply else None))

    def _judged(self, question: Question, reply: str | None) -> Decision | None:
        """What the judge says; as :func:`complement` where it was not asked or cannot be read."""
        model, llm = self.model.get(question.id), self.llm.get(question.id)
        if reply is not None:
            last = answer_to(question, reply)
            if last.reading.letter:
                return Decision(last, "judge")
            self.problems.append(
                Problem(question.id, "the judge's reply cannot be read; as complement", last.reading.why)
            )
        elif model and llm and model.reading.letter and model.reading.letter == llm.reading.letter:
            return Decision(model, "both")
        return complement(model, llm)

    def _decide(self, question: Question, decision: Decision | None) -> None:
        """A question on which the LLM gave no reply stays open: another run asks again."""
        if decision and question.id not in self.failed:
            self.decisions[question.id] = decision

    def _read(self, path: Path, missing: str) -> dict[str, Answer]:
        joined = join(self.questions.questions, read_sheet(path))
        by_id = {question.id: question for question in self.questions.questions}
        absent = {question.id for question in joined.missing}
        self.problems += [problem for problem in joined.problems if problem.reason != NO_ANSWER]
        self.problems += [Problem(f"{path}: {name}", missing) for name in by_id if name in absent]
        if not joined.sheet.rows:
            raise VistuneError(
                f"{path}: answers none of the {len(by_id):,} questions. Answers of another split, or of "
                "other problems? Name theirs with --split and --problems."
            )
        return {row.id: answer_to(by_id[row.id], row.text) for row in joined.sheet.rows}

    def _took(self, asked: Asked) -> Iterator[str]:
        yield asked.spent
        if asked.stopped:
            raise asked.stopped
        self.problems += asked.problems
        self.failed |= {problem.place for problem in asked.problems}

    def write(self, out: Path) -> None:
        decisions = self.decisions
        found = {name: decision.answer.reading.index for name, decision in decisions.items()}
        content = {
            "made": self.made,
            "decided_by": dict(Counter(decision.by for decision in decisions.values())),
            "results": {name: index for name, index in found.items() if index is not None},
            "outputs": {name: decision.answer.text for name, decision in decisions.items()},
            "decisions": {name: decision.by for name, decision in decisions.items()},
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        part = out.with_name(f"{out.name}.part")
        part.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        part.replace(out)
        write_problems(_set_aside(out), [*self.questions.problems, *self.problems])

    def told(self, out: Path) -> Iterator[str]:
        decided, asked = len(self.decisions), len(self.questions.questions)
        yield f"{out}: {decided:,} of {asked:,} questions decided"
        for by, count in Counter(decision.by for decision in self.decisions.values()).most_common():
            yield f"decided by {by}: {count:,}"
        for reason, count in count_by_reason([*self.questions.problems, *self.problems]).items():
            yield f"noted: {count:,} x {reason} (see {_set_aside(out)})"
        if self.failed:
            yield f"{len(self.failed):,} questions stay open; run the same command again to ask about them"


def _refuse(rule: str, llm_predictions: Path | None, files: BenchFiles, asking: AskOptions | None) -> None:
    if rule not in RULES:
        raise VistuneError(f"{rule}: no such ensemble. Choose of {', '.join(RULES)}.")
    if rule == "judge" and asking is None:
        raise VistuneError("judge asks an LLM; name it with --model.")
    if llm_predictions is None and asking is None:
        raise VistuneError("Give the LLM's predictions with --llm FILE, or name it with --model to ask it.")
    if rule == "complement" and llm_predictions is not None and asking is not None:
        raise VistuneError("--model would be ignored: complement asks nobody where it has --llm FILE.")
    if files.stored_indices:
        raise VistuneError("--stored-indices would be ignored: an ensemble reads the texts.")


def _made(
    rule: str, predictions: Path, llm_predictions: Path | None, files: BenchFiles, asking: AskOptions | None
) -> dict[str, Any]:
    assert files.data is not None
    made: dict[str, Any] = {"rule": rule, "model": _named(predictions), "problems": _named(files.data)}
    made["split"] = files.split
    if llm_predictions is not None:
        made["llm"] = _named(llm_predictions)
    elif asking is not None:
        made["llm"] = made_with(asking, "answer")
    if rule == "judge" and asking is not None:
        made["judge"] = made_with(asking, "judge")
    return {**made, "vistune": __version__}


def _named(path: Path) -> dict[str, str]:
    """A file by its name and content."""
    try:
        return {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error


def _refuse_other(out: Path, made: Mapping[str, Any]) -> None:
    """Raise VistuneError where ``out`` is something else than an earlier run of the same command."""
    if not out.exists():
        return
    try:
        kept = json.loads(out.read_text(encoding="utf-8"))["made"]
    except (OSError, ValueError, KeyError, TypeError):
        kept = None
    if kept != made:
        raise VistuneError(f"{out}: exists, and is of another run. Choose another --out, or remove it first.")


def _set_aside(out: Path) -> Path:
    return out.with_suffix(".set_aside.jsonl")
