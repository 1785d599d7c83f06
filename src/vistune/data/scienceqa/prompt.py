"""How a problem is asked (question, context, options) and what a model learns to answer (paper Sec. 5.2)."""

from __future__ import annotations

import re
from string import ascii_uppercase
from typing import Literal, TypeAlias, get_args

from vistune.conversation import Conversation, ask, gpt, human
from vistune.data.scienceqa.problem import ScienceProblem

Order: TypeAlias = Literal["lea", "answer-first"]
ORDERS: tuple[str, ...] = get_args(Order)
STATED_ANSWER = re.compile(r"The answer is ([A-Z])\.")


def question_text(problem: ScienceProblem) -> str:
    """The words of a question; its picture follows them.

    In the reduced form, a question with a context has it before it already, and stands as it is.
    """
    asked = [f"Question: {problem.question}", f"Context: {problem.hint.strip() or 'N/A'}"]
    if problem.reduced and problem.has_text:
        asked = [problem.question]
    lettered = zip(ascii_uppercase, problem.choices, strict=False)
    return "\n".join([*asked, "Options:", *(f"({letter}) {choice}" for letter, choice in lettered)])


def answer_text(problem: ScienceProblem, order: Order) -> str:
    """Lecture, solution and the answer, each on a line of its own where there is one.

    Args:
        order: ``lea`` ends with the answer; ``answer-first`` begins with it (the paper's ablation).
    """
    reasons = [text.strip() for text in (problem.lecture, problem.solution) if text.strip()]
    answer = f"The answer is {problem.letter}."
    return "\n".join([*reasons, answer] if order == "lea" else [answer, *reasons])


def to_conversation(problem: ScienceProblem, order: Order) -> Conversation:
    """The problem as a sample to learn from; the picture stands at the question's end."""
    question = ask(question_text(problem), problem.image, picture_first=False)
    return Conversation(problem.id, (human(*question), gpt(answer_text(problem, order))))
