"""What a sample teaches, to look at before a run: its text with what is trained on marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from rich.text import Text

from vistune.conversation import IGNORE_INDEX
from vistune.data.pack import Tree
from vistune.template import Encoded

_STYLES = {"supervised": "bold black on bright_green", "picture": "bold magenta", "prompt": ""}
_MARKS = {"supervised": ("[[", "]]"), "picture": ("<", ">"), "prompt": ("", "")}


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens of one kind: ``prompt``, ``supervised`` or ``picture``."""

    kind: str
    text: str
    tokens: int


def pieces(sample: Encoded, tokenizer: Any, image_token: int) -> list[Piece]:
    """The sample's text, cut where it begins or ends to be trained on and at pictures.

    Neighbouring pictures without text between them are one piece.
    """
    found: list[Piece] = []
    places = range(len(sample.ids))
    for kind, run in groupby(places, lambda place: _kind(sample, place, image_token)):
        span = list(run)
        start, end = span[0], span[-1] + 1
        text = (
            f"image x {len(span)}" if kind == "picture" else _text(sample, start, end, tokenizer, image_token)
        )
        found.append(Piece(kind, text, len(span)))
    return found


def marked(sample: Encoded, tokenizer: Any, image_token: int) -> Text:
    """The sample with its pieces in colour, and in brackets, which remain where there is no colour.

    Supervised text stands in ``[[...]]``; a picture of 576 tokens is ``<image x 576>``.
    """
    whole = Text()
    for piece in pieces(sample, tokenizer, image_token):
        left, right = _MARKS[piece.kind]
        whole.append(f"{left}{piece.text}{right}", _STYLES[piece.kind])
    return whole


def preview(trees: Sequence[tuple[Tree, Encoded]], tokenizer: Any, image_token: int) -> Iterator[str | Text]:
    """Lines for each tree: how it is computed, and its first sample with what is trained on marked."""
    for number, (tree, sample) in enumerate(trees, 1):
        yield f"sample {number}: {_summary(sample)}"
        yield f"  {tree_in_words(tree)}"
        yield marked(sample, tokenizer, image_token)


def tree_in_words(tree: Tree) -> str:
    """What is shared, and what each branch adds."""
    if not tree.prefix:
        return f"shares nothing: a row of {tree.tokens:,} tokens by itself"
    alone = sum(tree.prefix + branch for branch in tree.branches)
    branches = ", ".join(f"{branch:,}" for branch in tree.branches)
    return (
        f"shares a prefix of {tree.prefix:,} tokens, computed once, with {len(tree.branches) - 1:,} more; "
        f"branches of {branches} tokens; {tree.tokens:,} tokens in the place of {alone:,}"
    )


def _summary(sample: Encoded) -> str:
    names = ", ".join(sample.pictures) or "no picture"
    return f"{names}; {len(sample.ids):,} tokens, {sample.supervised:,} of them supervised"


def _kind(sample: Encoded, place: int, image_token: int) -> str:
    if sample.ids[place] == image_token:
        return "picture"
    return "prompt" if sample.labels[place] == IGNORE_INDEX else "supervised"


def _text(sample: Encoded, start: int, end: int, tokenizer: Any, image_token: int) -> str:
    """The text of a span; new lines are visible.

    Tokenizers in SentencePiece's manner drop a space at the beginning, so a span is decoded behind all that
    is before it, whose own text is then taken away.
    """
    until_start, until_end = (
        _decode([token for token in sample.ids[:place] if token != image_token], tokenizer)
        for place in (start, end)
    )
    if until_end.startswith(until_start):
        text = until_end[len(until_start) :]
    else:  # a character begins in one span and ends in the next
        text = _decode(sample.ids[start:end], tokenizer)
    return text.replace("\n", "⏎\n")


def _decode(ids: Sequence[int], tokenizer: Any) -> str:
    if not ids:
        return ""
    text: str = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return text
