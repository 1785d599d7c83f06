"""``vistune evaluate``: a benchmark's questions, answered by a model and scored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from vistune.data.images import Flaw
from vistune.data.pictures import Pictures
from vistune.errors import Problem, VistuneError, write_problems
from vistune.evaluate.answering.answerer import Answerer
from vistune.evaluate.benches.bench import Bench, BenchFiles, refuse_ignored
from vistune.evaluate.benches.registry import find_bench
from vistune.evaluate.score import SET_ASIDE, Scored, score_outcomes
from vistune.evaluate.sheet import SETTINGS, read_sheet
from vistune.folders import claim
from vistune.progress import meter
from vistune.question import Question, Questions

ROWS = 64
ANSWERS, BLIND = "answers.jsonl", "answers_blind.jsonl"


@dataclass(frozen=True)
class Asking:
    """How a benchmark is asked.

    Attributes:
        limit: only the first so many questions.
        blind: ask all of it a second time, without the pictures.
        rows: questions that are answered together at most.
        most: new tokens at most; the benchmark's own where it is not given.
        instruction: a line that is added to each question.
    """

    limit: int | None = None
    blind: bool = False
    rows: int = ROWS
    most: int | None = None
    instruction: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What came of it; no scores where a judge has yet to read the answers."""

    bench: Bench
    answers: Path
    scored: Scored | None
    blind: Scored | None


def evaluate(
    name: str | Path,
    bench_name: str,
    files: BenchFiles,
    images: Path | None,
    out: Path,
    asking: Asking | None = None,
) -> Evaluation:
    """Ask a model a benchmark's questions; goes on where it was interrupted, by question id.

    Writes into ``out`` ``answers.jsonl``, how they were made (``evaluation.json``), ``set_aside.jsonl`` and,
    unless a judge is needed, the scores.

    Args:
        name: a checkpoint of ours, or any image-text-to-text checkpoint of transformers.
        images: folder, zip file or tar shards; only a benchmark without pictures needs none.

    Raises:
        VistuneError: an option would be ignored, a file cannot be used, no question is left, or ``out`` holds
            another evaluation.
    """
    asking = asking or Asking()
    bench = find_bench(bench_name)
    loaded, questions = questions_for(bench, files, asking)
    if images is None and any(question.image for question in questions):
        raise VistuneError(f"{bench.name} asks about pictures: --images says where they lie.")
    most = asking.most or bench.most
    answerer = load_answerer(name)
    made = {
        "model": str(name),
        "bench": bench.name,
        "files": {key: str(value) for key, value in asdict(files).items() if key in files.given},
        "images": str(images),
        "limit": asking.limit,
        "instruction": asking.instruction,
        "max_new_tokens": most,
        **answerer.description,
    }
    claim(out, SETTINGS, made)
    pictures = Pictures(images) if images else None
    asked = _Asked(answerer, most, asking.rows, loaded.problems)
    asked.ask(questions, pictures, out / ANSWERS, f"answering {bench.name}")
    if asking.blind:
        asked.ask(questions, None, out / BLIND, f"answering {bench.name} without pictures")
    write_problems(out / SET_ASIDE, loaded.problems)
    if not (out / ANSWERS).stat().st_size:
        raise VistuneError(f"{out}: no question could be asked; {SET_ASIDE} there says why of each.")
    if bench.judged or not any(question.references for question in loaded.questions):
        return Evaluation(bench, out / ANSWERS, None, None)
    scored = score_outcomes(bench, loaded, read_sheet(out / ANSWERS), files)
    blind = score_outcomes(bench, loaded, read_sheet(out / BLIND), files) if asking.blind else None
    scored.write(out, blind)
    return Evaluation(bench, out / ANSWERS, scored, blind)


def questions_for(bench: Bench, files: BenchFiles, asking: Asking) -> tuple[Questions, list[Question]]:
    """All of a benchmark's questions, and those that are asked, as they are asked.

    Raises:
        VistuneError: an option would be ignored, or a file cannot be used.
    """
    refuse_ignored(bench, files)
    loaded = bench.load(files)
    questions = loaded.questions[: asking.limit]
    if asking.instruction:
        questions = [replace(q, text=f"{q.text}\n{asking.instruction}") for q in questions]
    return loaded, questions


def load_answerer(name: str | Path) -> Answerer:
    """A checkpoint of ours where it is one, else transformers' own class for it."""
    from vistune.model.checkpoint import is_ours

    if is_ours(name):
        from vistune.evaluate.answering.ours import Ours

        return Ours(name)
    from vistune.evaluate.answering.peer import Peer

    return Peer.load(str(name))


@dataclass
class _Asked:
    """Asks, and writes each answer down as it ends."""

    answerer: Answerer
    most: int
    rows: int
    problems: list[Problem]

    def ask(self, questions: Sequence[Question], pictures: Pictures | None, path: Path, task: str) -> None:
        known = _written(path)
        left = sorted(
            (question for question in questions if question.id not in known), key=_first_seen(questions)
        )
        path.write_text("".join(map(_line, known.values())), encoding="utf-8")
        total = len(questions)
        with open(path, "a", encoding="utf-8") as file, meter(task, total, total - len(left)) as progress:
            for question, answer in self.answerer.answer(left, pictures, self.most, self.rows):
                progress.advance()
                if isinstance(answer, Flaw):
                    place = question.image or question.id
                    detail = f"question {question.id}" + (f": {answer.detail}" if answer.detail else "")
                    self.problems.append(Problem(place, answer.reason, detail))
                    continue
                known[question.id] = _row(question, answer)
                file.write(_line(known[question.id]))
                file.flush()
        ordered = [known[question.id] for question in questions if question.id in known]
        part = path.with_suffix(".part")
        part.write_text("".join(map(_line, ordered)), encoding="utf-8")
        part.replace(path)


def _first_seen(questions: Iterable[Question]) -> Any:
    """Sorts questions on one picture together, pictures in the order in which they are first asked about."""
    order: dict[str | None, int] = {}
    for question in questions:
        order.setdefault(question.image, len(order))
    return lambda question: order[question.image]


def _written(path: Path) -> dict[str, dict[str, Any]]:
    """The answers of an interrupted run by id; a last line that was cut short is left out."""
    if not path.exists():
        return {}
    with open(path, encoding="utf-8", newline="\n") as lines:
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return {row["id"]: row for row in rows}


def _row(question: Question, answer: str) -> dict[str, Any]:
    return {
        "id": question.id,
        "image": question.image,
        "question": question.text,
        "kind": question.kind,
        "references": list(question.references),
        "answer": answer,
    }


def _line(row: dict[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"
