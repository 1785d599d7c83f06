"""Whose answer stands, where a model and a text-only LLM have answered the same question."""

from __future__ import annotations

from dataclasses import dataclass

from vistune.evaluate.benches.letter import Reading, read_letter
from vistune.question import Question


@dataclass(frozen=True)
class Answer:
    """What was written, and the letter read of it."""

    text: str
    reading: Reading


@dataclass(frozen=True)
class Decision:
    """The ensemble's answer; ``by``: llm, model, both, judge, or nobody (neither can be read)."""

    answer: Answer
    by: str


def answer_to(question: Question, text: str) -> Answer:
    """A multiple-choice answer, read strictly."""
    return Answer(text, read_letter(text, question.details["choices"]))


def complement(model: Answer | None, llm: Answer | None) -> Decision | None:
    """The LLM's answer, the model's where the LLM's cannot be read; None where there is neither."""
    if llm and llm.reading.letter:
        return Decision(llm, "llm")
    if model and model.reading.letter:
        return Decision(model, "model")
    neither = model or llm
    return Decision(neither, "nobody") if neither else None


def differ(model: Answer | None, llm: Answer | None) -> bool:
    """Both wrote something, and it is not the same letter; one of them may be unreadable."""
    if not (model and llm and model.text.strip() and llm.text.strip()):
        return False
    return model.reading.letter != llm.reading.letter
