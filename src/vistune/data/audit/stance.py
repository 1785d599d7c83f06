"""Whether a text says that a thing is there, denies it, or only thinks of it; by words of one sentence.

Rules of thumb, not grammar: a negator or a word of doubt reaches up to the next comma or contrast ("but"),
and on through a list ("no dogs, cats or birds"). What they cannot see: doubt that stands elsewhere ("A dog?
Unlikely."), irony, generic statements ("dogs like parks"), negation across sentences.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, TypeAlias

Stance: TypeAlias = Literal["asserted", "denied", "hedged"]

_NEGATORS = frozenset(
    "no not never neither nor without cannot lack lacks lacking absence devoid missing absent".split()
)
_NOT_NEGATED_BY_NOT = frozenset("only just merely simply necessarily".split())
_NO_ONE = frozenset("one doubt".split())  # "no one sits on the bench": the bench is there
_HEDGES = frozenset(
    """might may could would should must if whether unless perhaps maybe possibly potentially probably likely
    presumably resemble resembles resembling imaginary""".split()
)
_CONTRASTS = frozenset("but however although though while whereas yet except only".split())
_TWO_WORDS = {
    ("instead", "of"): "denied",
    ("rather", "than"): "denied",
    ("free", "of"): "denied",
    ("other", "than"): "denied",
    ("like", "a"): "hedged",
    ("like", "an"): "hedged",
}
_SIGNALS = _NEGATORS | _HEDGES | {first for first, _ in _TWO_WORDS}
_BREAK = re.compile(r"[,:()–—]")
_LINKS = frozenset("and or nor any a an the some even other".split())
_LONGEST_LINK = 3  # "or even a cat"

Span: TypeAlias = "tuple[int, int]"
Token: TypeAlias = "tuple[str, int, int]"  # the word in lower case, start and end in the text


def stances(text: str, tokens: Sequence[Token], mentions: Sequence[Span], question: bool) -> list[Stance]:
    """The stance of each mention of one sentence.

    Args:
        tokens: of the sentence.
        mentions: numbers of first and last token of each mention, in order.
        question: the sentence is a question; it asserts nothing.
    """
    if question:
        return ["hedged"] * len(mentions)
    words = [word for word, _, _ in tokens]
    if _SIGNALS.isdisjoint(words) and not any(word.endswith("n't") for word in words):
        return ["asserted"] * len(mentions)
    breaks = [False] + [
        start - end > 1 and _BREAK.search(text, end, start) is not None
        for (_, _, end), (_, start, _) in pairwise(tokens)
    ]
    starts = {first: number for number, (first, _) in enumerate(mentions)}
    found: list[Stance] = ["asserted"] * len(mentions)
    scope: Stance = "asserted"
    covered = False  # the scope has reached a mention: what follows may be a list
    for place, word in enumerate(words):
        if word in _CONTRASTS or (
            breaks[place] and not (covered and _goes_on(words, breaks, starts, mentions, place))
        ):
            scope, covered = "asserted", False
        if (opened := _opens(words, breaks, place)) is not None:
            scope, covered = opened, False
        if place in starts:
            found[starts[place]] = scope
            covered = scope != "asserted"
    return found


def _opens(words: Sequence[str], breaks: Sequence[bool], place: int) -> Stance | None:
    """The scope that begins with this word, where one does."""
    word = words[place]
    following = words[place + 1] if place + 1 < len(words) else ""
    if word in _NEGATORS or word.endswith("n't"):
        if word == "not" and following in _NOT_NEGATED_BY_NOT:
            return None
        if word == "no" and (following in _NO_ONE or (following and breaks[place + 1])):
            return None
        return "denied"
    if word in _HEDGES:
        return "hedged"
    return _TWO_WORDS.get((word, following))  # type: ignore[return-value]


def _goes_on(
    words: Sequence[str], breaks: Sequence[bool], starts: dict[int, int], mentions: Sequence[Span], place: int
) -> bool:
    """Whether a list's next item follows a comma: "..., cats" or "..., or a cat"; not "..., a cat sits"."""
    for item in range(place, min(place + _LONGEST_LINK + 1, len(words))):
        if item in starts:
            end = mentions[starts[item]][1] + 1
            return end >= len(words) or breaks[end] or words[end] in ("and", "or", "nor")
        if words[item] not in _LINKS:
            return False
    return False
