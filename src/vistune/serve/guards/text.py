"""What users write: not too long, and all of it text."""

from __future__ import annotations

from vistune.serve.engine.engine import BadRequestError
from vistune.serve.guards.limits import Limits


def check_text(text: str, limits: Limits) -> None:
    """Refuse one message's text if it is too long, or if it cannot be encoded.

    JSON can name halves of a character (``"\\ud800"``), which Python keeps and no tokenizer reads.

    Raises:
        BadRequestError: with ``param`` "messages".
    """
    if len(text) > limits.question_characters:
        raise BadRequestError(
            f"A message has {len(text)} characters; {limits.question_characters} are allowed.", "messages"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRequestError(
            f"A message holds half a character (a lone surrogate) at position {error.start}.", "messages"
        ) from error
