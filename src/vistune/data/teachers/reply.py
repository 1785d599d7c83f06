"""The format of a teacher's reply (paper Table 13).

Conversations and reasoning are pairs; a line ``===`` separates a question from its answer, and a pair
from the next one. A detailed description is prose alone.

    Question:
    What is the dog doing?
    ===
    Answer:
    It is running after a ball.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_SEPARATOR = re.compile(r"^===[ \t]*$", re.MULTILINE)


class ReplyError(ValueError):
    """A reply that does not follow the format; the message says where."""


def format_pairs(pairs: Sequence[tuple[str, str]]) -> str:
    """Write pairs of question and answer as a reply.

    Raises:
        ReplyError: a text holds the separator, so the reply could not be read back.
    """
    if any(_SEPARATOR.search(text) for pair in pairs for text in pair):
        raise ReplyError("a text holds the separator `===` on a line of its own")
    return "\n===\n".join(f"Question:\n{question}\n===\nAnswer:\n{answer}" for question, answer in pairs)


def parse_pairs(reply: str) -> list[tuple[str, str]]:
    """Read a reply of pairs.

    Raises:
        ReplyError: a heading is missing, a text is empty, or a question has no answer.
    """
    blocks = [block.strip() for block in _SEPARATOR.split(reply.replace("\r\n", "\n"))]
    texts = [
        _strip_heading(block, "Answer:" if number % 2 else "Question:", number)
        for number, block in enumerate(blocks)
    ]
    if len(texts) % 2:
        raise ReplyError("the last question has no answer")
    return list(zip(texts[::2], texts[1::2], strict=True))


def parse_prose(reply: str) -> str:
    """Read a reply of prose.

    Raises:
        ReplyError: it is empty, or holds the separator of pairs.
    """
    text = reply.strip()
    if not text:
        raise ReplyError("the reply is empty")
    if _SEPARATOR.search(text):
        raise ReplyError("prose was expected, and a line `===` was found")
    return text


def _strip_heading(block: str, heading: str, number: int) -> str:
    if not block.startswith(heading):
        raise ReplyError(f"block {number + 1} does not begin with `{heading}`")
    text = block.removeprefix(heading).strip()
    if not text:
        raise ReplyError(f"block {number + 1} is empty")
    return text
