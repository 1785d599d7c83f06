"""A text-only LLM behind an endpoint answers a benchmark's questions from their words alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vistune import __version__
from vistune.errors import Problem, VistuneError, write_problems
from vistune.evaluate.sheet import SETTINGS
from vistune.folders import claim
from vistune.llm.asking import Asked, ask_all, parameters
from vistune.llm.options import AskOptions
from vistune.llm.request import ChatReply, ChatRequest
from vistune.question import Question

ANSWERS, SET_ASIDE = "answers.jsonl", "set_aside.jsonl"


def answer_by_llm(questions: Sequence[Question], options: AskOptions, out: Path, most: int) -> Asked:
    """Ask each question once, greedily; a run that was cut short goes on.

    Writes ``answers.jsonl`` (in the questions' order), ``set_aside.jsonl``, and ``evaluation.json``: how the
    answers were made. A refusal is an empty answer, and is told; a question without a reply has no line, and
    the next run asks it again.

    Args:
        most: tokens that an answer may take.

    Raises:
        VistuneError: an option cannot be used, ``out`` holds something else, or nothing was answered.
    """
    system, digest = _prompt()
    sent = parameters(options.param, {"temperature": 0.0, "max_tokens": most})
    sent = {name: value for name, value in sent.items() if name != "seed"}  # greedy: there is none
    requests = {
        question.id: ChatRequest(options.model, (("system", system), ("user", question.text)), sent)
        for question in questions
    }
    claim(out, SETTINGS, _settings(options.model, sent, digest, requests))
    try:
        asked = ask_all(requests, options, "answering")
        if not asked.replies:
            raise asked.stopped or _nothing(asked)
    except VistuneError:
        if [path.name for path in out.iterdir()] == [SETTINGS]:
            (out / SETTINGS).unlink()  # nothing was answered: the folder stays free
        raise
    problems = [*asked.problems, *_told(asked.replies)]
    _write(out / ANSWERS, questions, asked.replies)
    write_problems(out / SET_ASIDE, problems)
    return Asked(asked.replies, problems, asked.spent, asked.stopped)


def _told(replies: Mapping[str, ChatReply]) -> list[Problem]:
    """Replies that are answers, and that a reader should know of."""
    problems = []
    for name, reply in replies.items():
        if reply.refused:
            problems.append(Problem(name, "refused; counted as an empty answer", reply.text[:80]))
        elif reply.cut:
            problems.append(Problem(name, "cut off at the token limit", reply.text[-80:]))
        elif not reply.text.strip():
            problems.append(Problem(name, "an empty answer"))
    return problems


def _write(path: Path, questions: Sequence[Question], replies: Mapping[str, ChatReply]) -> None:
    part = path.with_suffix(".part")
    with open(part, "w", encoding="utf-8") as file:
        for question in questions:
            if (reply := replies.get(question.id)) is None:
                continue
            row = {
                "id": question.id,
                "image": question.image,
                "question": question.text,
                "kind": question.kind,
                "references": list(question.references),
                "answer": "" if reply.refused else reply.text.strip(),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    part.replace(path)


def _settings(
    model: str, sent: Mapping[str, Any], digest: str, requests: Mapping[str, ChatRequest]
) -> dict[str, Any]:
    asked = json.dumps({name: request.key for name, request in requests.items()})
    return {
        "model": model,
        "kind": "text-only LLM",
        "parameters": dict(sent),
        "prompt": digest,
        "questions": len(requests),
        "sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "vistune": __version__,
    }


def _prompt() -> tuple[str, str]:
    """The system message, and the SHA-256 of its file."""
    data = resources.files("vistune.prompts").joinpath("answering", "text_only.yaml").read_bytes()
    return yaml.safe_load(data)["system"].strip(), hashlib.sha256(data).hexdigest()


def _nothing(asked: Asked) -> VistuneError:
    if not asked.problems:
        return VistuneError("There is no question to answer.")
    first = asked.problems[0]
    return VistuneError(f"Nothing was answered. The first, {first.place}: {first.reason}: {first.detail}")
