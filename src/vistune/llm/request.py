"""What an LLM is asked, and what it replied."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class ChatRequest:
    """One request of the chat completions API.

    Attributes:
        messages: (role, text), oldest first.
        parameters: everything else of the body: temperature, max_tokens, seed ...
        note: is not sent; tells requests apart that send the same and want different replies.
    """

    model: str
    messages: tuple[tuple[Role, str], ...]
    parameters: dict[str, Any]
    note: str = ""

    def body(self) -> dict[str, Any]:
        messages = [{"role": role, "content": text} for role, text in self.messages]
        return {"model": self.model, "messages": messages, **self.parameters}

    @cached_property
    def key(self) -> str:
        """The hash of the content: two requests that ask the same have the same key."""
        content = json.dumps(self.body(), sort_keys=True) + self.note
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def characters(self) -> int:
        return sum(len(text) for _, text in self.messages)


@dataclass(frozen=True)
class Usage:
    """Tokens of a request and of its reply."""

    prompt: int
    completion: int


@dataclass(frozen=True)
class ChatReply:
    """A complete reply.

    Attributes:
        text: empty where the model refused.
        cut: it ended at the token limit.
        refused: by the model or by the endpoint's content filter.
        paid_before: it came from the ledger.
    """

    text: str
    cut: bool
    refused: bool
    usage: Usage
    paid_before: bool = False


class BadReplyError(ValueError):
    """A body that is no complete chat completion; the message says why."""


def read_reply(body: str, paid_before: bool = False) -> ChatReply:
    """Read the body of a chat completion.

    Raises:
        BadReplyError: it is no JSON (HTML, or cut off), or lacks what every completion has.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        what = "HTML" if body.lstrip()[:1] == "<" else "broken JSON"
        raise BadReplyError(f"{what}: {body[:80]!r}") from error
    try:
        choice = content["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = message.get("content"), message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise BadReplyError(f"not a chat completion: {body[:80]!r}") from error
    if not isinstance(text, str | None):
        raise BadReplyError(f"not a chat completion with text: {body[:80]!r}")
    counts = content.get("usage")
    usage = Usage(_tokens(counts, "prompt_tokens"), _tokens(counts, "completion_tokens"))
    refused = bool(refusal) or finish == "content_filter"
    return ChatReply(_mended(text or ""), finish == "length", refused, usage, paid_before)


def _tokens(counts: Any, name: str) -> int:
    """A count of tokens; 0 where the endpoint tells none that can be one."""
    count = counts.get(name) if isinstance(counts, dict) else None
    return count if isinstance(count, int) and count > 0 else 0


def _mended(text: str) -> str:
    """Halves of surrogate pairs, which no file can hold, become U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
