"""What a text-only LLM is asked about ScienceQA: its own answer, and which of two answers holds."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vistune.llm.asking import Asked, ask_all, parameters, seeded
from vistune.llm.options import AskOptions
from vistune.prompts import Messages, load_prompt
from vistune.question import Question

DEFAULT_PARAMETERS = {"temperature": 0, "max_tokens": 1024}


@dataclass(frozen=True)
class Dispute:
    """A question on which a model and an LLM differ, and what each of them wrote."""

    question: Question
    model: str
    llm: str


def ask_for_answers(questions: Iterable[Question], options: AskOptions) -> Asked:
    """The LLM's own answers, by the questions' ids: two examples, then the question without its picture."""
    prompt = load_prompt("answer", _folder())
    asked = {question.id: prompt.messages(question.text) for question in questions}
    return ask_all(_requests(asked, options), options, "the LLM's answers")


def settle(disputes: Iterable[Dispute], options: AskOptions) -> Asked:
    """The LLM's last word on each dispute, by the questions' ids."""
    return ask_all(_requests({d.question.id: _asked(d) for d in disputes}, options), options, "judging")


def made_with(options: AskOptions, prompt: str) -> dict[str, Any]:
    """What decides the replies: the LLM, its parameters and the prompt's hash."""
    data = (_folder() / f"{prompt}.yaml").read_bytes()
    return {
        "model": options.model,
        "base_url": options.base_url,
        "parameters": parameters(options.param, DEFAULT_PARAMETERS),
        "prompt": hashlib.sha256(data).hexdigest(),
    }


def _requests(asked: Mapping[str, Messages], options: AskOptions) -> dict[str, Any]:
    settings = parameters(options.param, DEFAULT_PARAMETERS)
    return {name: seeded(options.model, messages, settings, name) for name, messages in asked.items()}


def _asked(dispute: Dispute) -> Messages:
    words = _judge()
    by = words["by"]["picture" if dispute.question.image else "no_picture"]
    texts = {"question": dispute.question.text, "llm": dispute.llm.strip(), "model": dispute.model.strip()}
    return ("system", words["system"].strip()), ("user", words["asked"].format(by=by, **texts).strip())


@cache
def _judge() -> dict[str, Any]:
    words: dict[str, Any] = yaml.safe_load((_folder() / "judge.yaml").read_text(encoding="utf-8"))
    return words


def _folder() -> Path:
    return Path(str(resources.files("vistune.prompts").joinpath("scienceqa")))
