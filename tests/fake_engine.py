"""An engine that a human can check: it answers with what it was asked, word by word."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from io import BytesIO

from PIL import Image

from vistune.conversation import Picture
from vistune.serve.engine.engine import BadRequestError, ChatRequest, EngineError, Piece, Usage


class FakeEngine:
    """Echoes the last question; ``[WxH]`` stands for a picture.

    Some questions are commands: ``/wait`` never answers, ``/slow`` writes a word and then nothing,
    ``/fail`` and ``/fail later`` raise EngineError, ``/crash`` an error that quotes the question, ``/cut``
    ends without a finish.

    Attributes:
        requests: all so far.
        running: being answered now; ``cancelled``: closed before their end.
    """

    def __init__(self, name: str = "fake", context: int | None = 64) -> None:
        self.name, self.context = name, context
        self.card = {"template": "none", "parameters": 0}
        self.requests: list[ChatRequest] = []
        self.running = self.cancelled = self.closed = 0

    async def answer(self, request: ChatRequest) -> AsyncIterator[Piece]:
        self.requests.append(request)
        self.running += 1
        try:
            async for piece in self._answer(request):
                yield piece
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    async def _answer(self, request: ChatRequest) -> AsyncIterator[Piece]:
        words = self._shown(request).split(" ")
        read = sum(len(turn.text.split(" ")) for turn in request.conversation.turns)
        wanted = request.sampling.max_tokens
        if self.context is not None and read + (wanted or 1) > self.context:
            raise BadRequestError(f"This takes {read + (wanted or 1)} of {self.context} tokens.", "messages")
        command = request.conversation.turns[-1].text
        if command.startswith("/wait"):
            await asyncio.Event().wait()
        if command.startswith("/slow"):
            yield Piece("slow ")
            await asyncio.Event().wait()
        if command == "/fail":
            raise EngineError("broken at 10.0.0.1")
        if command.startswith("/crash"):
            raise RuntimeError(f"cannot read {command}")
        most = len(words) if wanted is None else min(wanted, len(words))
        for number, word in enumerate(words[:most]):
            await asyncio.sleep(0)
            if command == "/fail later" and number:
                raise EngineError("broken at 10.0.0.1")
            yield Piece(word if number == 0 else f" {word}")
        if command != "/cut":
            yield Piece("", "stop" if most == len(words) else "length", Usage(read, most, read // 2))

    def _shown(self, request: ChatRequest) -> str:
        shown = ""
        for part in request.conversation.turns[-1].content:
            if isinstance(part, Picture):
                picture: Image.Image = request.pictures[part.file]
                part = f"[{picture.width}x{picture.height}]"
            shown += part
        return shown

    def state(self) -> dict[str, float]:
        return {"running": self.running, "waiting": 0, "tokens_written": 5, "cache_bytes": 7}

    async def close(self) -> None:
        self.closed += 1


def png_uri(width: int = 4, height: int = 3, colour: str = "teal") -> str:
    """A picture as a ``data:`` URI."""
    file = BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
