"""Checks on what a teacher wrote, each with a fixed phrase for its reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.data.leaks import find_leak
from vistune.prompts import unanswerable

LONGEST_ANSWER = 400  # words; the paper's longest types run to about 200

_REFUSAL = re.compile(
    r"\b(as an ai\b|as a (large )?language model|i(['’]m| am) (sorry|unable|not able)\b|i apologi[sz]e|"
    r"i (can ?not|can['’]t) (see|view|help|assist|provide|answer|determine|access))",
    re.IGNORECASE,
)
_OPENING = 120  # characters: a refusal comes first


@dataclass(frozen=True)
class SampleFlaw:
    """Why a sample cannot be used: a phrase to count by, and the place."""

    reason: str
    detail: str = ""


def find_sample_flaw(
    pairs: Sequence[tuple[str, str]], context: str, longest: int = LONGEST_ANSWER
) -> SampleFlaw | None:
    """The first thing wrong with pairs of question and answer, or None.

    Args:
        context: what the teacher saw of the picture.
        longest: words at most in one answer.
    """
    return next(_flaws(pairs, context, longest), None)


def _flaws(pairs: Sequence[tuple[str, str]], context: str, longest: int) -> Iterator[SampleFlaw]:
    asked: set[str] = set()
    for question, answer in pairs:
        if not question.strip() or not answer.strip():
            yield SampleFlaw("empty text", f"{question!r} / {answer!r}")
        if _REFUSAL.search(answer[:_OPENING]):
            yield SampleFlaw("refusal", answer[:_OPENING])
        for text in (question, answer):
            if leak := find_leak(text):
                yield SampleFlaw("speaks of its source", leak)
            if "\ufffd" in text:
                yield SampleFlaw("broken characters", text[:_OPENING])
            if IMAGE_PLACEHOLDER in text:
                yield SampleFlaw(f"contains {IMAGE_PLACEHOLDER}", text[:_OPENING])
        if (words := len(answer.split())) > longest:
            yield SampleFlaw("answer too long", f"{words} words, at most {longest}")
        plain = " ".join(re.findall(r"\w+", question.lower()))
        if plain in asked:
            yield SampleFlaw("question asked twice", question)
        asked.add(plain)
        if (needs := _missing_ground(question, context)) is not None:
            yield SampleFlaw("question that the annotations cannot answer", f"{question} (needs {needs})")


def _missing_ground(question: str, context: str) -> str | None:
    """What the context would have to say for the question to be fair, where it does not."""
    words = set(re.findall(r"[\w']+", context.lower()))
    for pattern, needs in _ungrounded():
        if pattern.search(question) and not words & needs:
            return ", ".join(sorted(needs)[:3]) or "nothing that annotations hold"
    return None


@cache
def _ungrounded() -> tuple[tuple[re.Pattern[str], frozenset[str]], ...]:
    return tuple((re.compile(row["asks"], re.IGNORECASE), frozenset(row["needs"])) for row in unanswerable())
