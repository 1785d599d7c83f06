"""OpenAI's messages -> a conversation and its pictures, held against the limits."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from vistune.conversation import Content, Conversation, Picture, Turn
from vistune.serve.api.metrics import Metrics
from vistune.serve.api.wire import ChatBody, ImagePart, Message, SystemMessage, TextPart, UserMessage
from vistune.serve.engine.engine import BadRequestError, ChatRequest
from vistune.serve.guards.limits import Limits
from vistune.serve.guards.pictures import fetch_pictures
from vistune.serve.guards.text import check_text

Parts = Sequence[str | Picture]


async def read_request(body: ChatBody, limits: Limits, metrics: Metrics) -> ChatRequest:
    """The conversation of a request, with its pictures decoded, and how to answer.

    ``sampling.max_tokens`` is None where the request names no number.

    Raises:
        BadRequestError: it is over a limit, or no conversation that ends with a question.
    """
    wanted = body.wanted_tokens
    if wanted is not None and wanted > limits.max_tokens:
        param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
        raise BadRequestError(f"`{param}` is {wanted}; {limits.max_tokens} are allowed.", param)
    if len(body.messages) > limits.turns:
        raise BadRequestError(
            f"The request has {len(body.messages)} messages; {limits.turns} are allowed.", "messages"
        )
    conversation = to_conversation(body.messages, limits)
    pictures = await _fetch(conversation.pictures, limits, metrics)
    return ChatRequest(conversation, pictures, body.sampling(wanted), bool(body.stream))


def to_conversation(messages: Sequence[Message], limits: Limits) -> Conversation:
    """Turns in which a picture's name is its address. A system message becomes the first question's first
    lines: a template has words of its own for a system, and what a model was not trained on is plain text.

    Raises:
        BadRequestError: roles in a wrong order, an empty question, or too long a text.
    """
    leading = next((n for n, m in enumerate(messages) if not isinstance(m, SystemMessage)), len(messages))
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        parts = _parts(message)
        check_text("".join(part for part in parts if isinstance(part, str)), limits)
        if number < leading:
            continue
        _check_role(message, number, len(messages), asked=(number - leading) % 2 == 0)
        if number == leading:
            system = [part for m in messages[:leading] for part in _parts(m) if isinstance(part, str)]
            parts = _with_system("\n".join(system), parts)
        if isinstance(message, UserMessage):
            if not parts:
                raise BadRequestError(f"`messages[{number}]` is empty.", "messages")
            turns.append(Turn("human", _on_lines(parts)))
        else:
            turns.append(Turn("gpt", _on_lines(parts)))
    if not turns:
        raise BadRequestError("The last of `messages` must be a user's.", "messages")
    return Conversation("chat", tuple(turns))


def _check_role(message: Message, number: int, count: int, asked: bool) -> None:
    expected = "user" if asked else "assistant"
    if message.role != expected:
        where = f"`messages[{number}]` is of role {message.role}, where {expected} was expected:"
        raise BadRequestError(
            f"{where} system messages come first, then user and assistant take turns.", "messages"
        )
    if number == count - 1 and not asked:
        raise BadRequestError("The last of `messages` must be a user's.", "messages")


def _parts(message: Message) -> list[str | Picture]:
    """Texts and pictures of a message; empty texts are nothing."""
    content = message.content
    parts: Sequence[TextPart | ImagePart] = (
        [TextPart(type="text", text=content)] if isinstance(content, str) else content
    )
    found = [part.text if isinstance(part, TextPart) else Picture(part.image_url.url) for part in parts]
    return [part for part in found if part]


def _with_system(system: str, parts: list[str | Picture]) -> list[str | Picture]:
    """The system's words just before the first of the question's."""
    if not system:
        return parts
    place = next((n for n, part in enumerate(parts) if isinstance(part, str)), len(parts))
    return [*parts[:place], system, *parts[place:]]


def _on_lines(parts: Parts) -> Content:
    """Each part on lines of its own, as :func:`vistune.conversation.ask` writes them."""
    content: list[str | Picture] = []
    for part in parts:
        before = content[-1] if content else None
        if before is None or (isinstance(before, str) and before.endswith("\n")):
            content.append(part)
        elif isinstance(part, str):
            content.append("\n" + part)
        elif isinstance(before, str):
            content[-1:] = [before + "\n", part]
        else:
            content += ["\n", part]
    return tuple(content)


async def _fetch(urls: Sequence[str], limits: Limits, metrics: Metrics) -> dict[str, Image.Image]:
    try:
        return dict(zip(urls, await fetch_pictures(urls, limits), strict=True))
    except BadRequestError:
        many, strange = len(urls) > limits.pictures, not all(url[:5].lower() == "data:" for url in urls)
        metrics.pictures_refused.labels("too many" if many else "address" if strange else "unusable").inc()
        raise
