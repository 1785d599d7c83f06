"""Two texts, word by word: which words only one of them has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

_MOST_WORDS = 600  # the comparison's time grows with the square
_ALIKE, _SHORT = 0.33, 12  # longer texts that share less than this are marked nowhere: all would be


@dataclass(frozen=True)
class Span:
    """A piece of text; ``own``: the other text has no such words here."""

    text: str
    own: bool = False


def compare_words(a: str, b: str) -> tuple[list[Span], list[Span]]:
    """Both texts in pieces. Case and surrounding punctuation do not make words differ."""
    words_a, words_b = re.findall(r"\s*\S+", a), re.findall(r"\s*\S+", b)
    if max(len(words_a), len(words_b)) > _MOST_WORDS:
        return [Span(a)], [Span(b)]
    matcher = SequenceMatcher(None, _keys(words_a), _keys(words_b), autojunk=False)
    if max(len(words_a), len(words_b)) > _SHORT and matcher.ratio() < _ALIKE:
        return [Span(a)], [Span(b)]
    codes = matcher.get_opcodes()
    return (
        _spans(words_a, [(i, j, code != "equal") for code, i, j, _, _ in codes]),
        _spans(words_b, [(i, j, code != "equal") for code, _, _, i, j in codes]),
    )


def _keys(words: Sequence[str]) -> list[str]:
    return [word.strip().strip(".,;:!?\"'()").lower() or word.strip() for word in words]


def _spans(words: Sequence[str], pieces: Sequence[tuple[int, int, bool]]) -> list[Span]:
    """The space before a marked piece stays unmarked."""
    spans = []
    for start, end, own in pieces:
        text = "".join(words[start:end])
        bare = text.lstrip()
        spans += [Span(text[: len(text) - len(bare)]), Span(bare, own)] if own else [Span(text)]
    return [span for span in spans if span.text]
