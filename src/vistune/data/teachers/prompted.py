"""The LLM teacher: a text-only LLM, shown a system message and a few examples (paper Sec. 3)."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vistune.data.teachers.teacher import SAMPLE_TYPES, NoReplyError, SampleType, TeacherReply, TeacherRequest
from vistune.llm.client import RequestFailedError
from vistune.llm.request import ChatReply, ChatRequest
from vistune.prompts import Prompt, load_prompt

DEFAULT_PARAMETERS = {"temperature": 0.7, "max_tokens": 1024}


class Asker(Protocol):
    """Whoever gets replies: the endpoint's client, a batch, a dry run."""

    async def ask(self, request: ChatRequest) -> ChatReply: ...

    async def close(self) -> None: ...


class PromptedTeacher:
    """Asks an LLM.

    Args:
        boxes_for_conversation: show boxes for conversations, too; the paper did not.
        parameters: of every request, besides model and messages; ``seed`` among them: none is sent.
        prompts: folder of the prompts; None: those shipped.
    """

    varies = True

    def __init__(
        self,
        asker: Asker,
        model: str,
        parameters: dict[str, Any],
        in_flight: int,
        prompts: Path | None = None,
        types: Sequence[SampleType] = SAMPLE_TYPES,
        boxes_for_conversation: bool = False,
    ) -> None:
        self.name, self.in_flight = model, in_flight
        self._asker, self._parameters = asker, parameters
        self._prompts: dict[SampleType, Prompt] = {kind: load_prompt(kind, prompts) for kind in types}
        boxed = set(SAMPLE_TYPES) - (set() if boxes_for_conversation else {"conversation"})
        self.boxes_for: frozenset[SampleType] = frozenset(boxed)

    def describe(self) -> dict[str, Any]:
        prompts = {kind: prompt.digest for kind, prompt in self._prompts.items()}
        record = {"model": self.name, "parameters": self._parameters, "prompts": prompts}
        return {**record, "boxes_for": sorted(self.boxes_for)}

    async def write(self, request: TeacherRequest) -> TeacherReply:
        asked = self._request(request)
        try:
            reply = await self._asker.ask(asked)
        except RequestFailedError as error:
            raise NoReplyError(str(error)) from error
        flaw = "refused" if reply.refused else "cut off at the token limit" if reply.cut else None
        source = {"prompt": self._prompts[request.type].digest, "request": asked.key}
        return TeacherReply(reply.text, flaw, source)

    async def close(self) -> None:
        await self._asker.close()

    def _request(self, request: TeacherRequest) -> ChatRequest:
        # The seed makes another attempt another request, for the endpoint and for the ledger.
        seed = zlib.crc32(f"{request.seed}/{request.attempt}".encode()) & 0x7FFFFFFF
        messages = self._prompts[request.type].messages(request.context)
        if "seed" not in self._parameters:
            return ChatRequest(self.name, messages, {"seed": seed, **self._parameters})
        unseeded = {name: value for name, value in self._parameters.items() if name != "seed"}
        return ChatRequest(self.name, messages, unseeded, note=str(seed))

    def example_characters(self, kind: SampleType) -> int:
        """How long a reply is, about: as long as the examples are."""
        replies = [len(reply) for _, reply in self._prompts[kind].examples]
        return sum(replies) // max(1, len(replies))
