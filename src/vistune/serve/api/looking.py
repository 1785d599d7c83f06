"""What a built-in model looked at, asked with OpenAI's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pydantic import TypeAdapter

from vistune.serve.api.reading import to_conversation
from vistune.serve.api.wire import Message
from vistune.serve.engine.attention import Looked, ids_of, look
from vistune.serve.engine.built_in import BuiltIn
from vistune.serve.engine.worker import worker
from vistune.serve.guards.limits import Limits
from vistune.serve.guards.pictures import fetch_pictures

_MESSAGES: TypeAdapter[list[Message]] = TypeAdapter(list[Message])


def looker(engine: BuiltIn, limits: Limits) -> Callable[[list[dict[str, Any]], str], Awaitable[Looked]]:
    """A function of the messages and of the answer to them; one look at a time.

    It raises BadRequestError where there is nothing to look at.
    """
    turn = asyncio.Lock()

    async def looked(messages: list[dict[str, Any]], answer: str) -> Looked:
        conversation = to_conversation(_MESSAGES.validate_python(messages), limits)
        pictures = await fetch_pictures(conversation.pictures, limits)
        async with turn:
            ids = await asyncio.to_thread(ids_of, engine.checkpoint, conversation, answer)
            looking = worker.submit(look, engine.checkpoint, conversation, pictures, ids)
            return await asyncio.wrap_future(looking)

    return looked
