"""The built-in engine: the thread that computes, and the event loop that waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, NamedTuple

import torch

from vistune.errors import VistuneError
from vistune.model.checkpoint import Checkpoint, load_checkpoint
from vistune.model.fingerprint import fingerprint
from vistune.serve.engine.batcher import Batcher, Job
from vistune.serve.engine.engine import BusyError, ChatRequest, EngineError, Piece
from vistune.serve.engine.prepare import Prepared, prepare
from vistune.serve.engine.worker import worker
from vistune.serve.engine.writing import Writer

_GIGABYTE = 10**9
_AFTER_A_WHILE = 1.0  # seconds between two tries where the queue is full


@dataclass(frozen=True)
class BuiltInOptions:
    """How the built-in engine works.

    Attributes:
        rows: requests that are decoded together at most.
        queue: requests that may wait; more are told to come again.
        cache: gigabytes of keys and values kept for those who begin alike.
        dtype: of the weights in memory; None: bfloat16 on a GPU, float32 elsewhere.
        int8: keep the LLM's linear layers in 8 bits (torchao).
    """

    rows: int = 32
    queue: int = 128
    cache: float = 1.0
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    int8: bool = False


class BuiltIn:
    """Answers with a checkpoint in this process; an :class:`vistune.serve.engine.engine.Engine`."""

    def __init__(
        self, name: str, checkpoint: Checkpoint, card: Mapping[str, Any], options: BuiltInOptions
    ) -> None:
        self.name, self.card, self.checkpoint = name, card, checkpoint
        self.context: int | None = checkpoint.recipe.max_length
        self._options = options
        self._batcher = Batcher(checkpoint, options.rows, int(options.cache * _GIGABYTE))
        self._preparing = ThreadPoolExecutor(1, f"prepare {name}")  # the tokenizer is one for all
        self._taken = 0
        # of the thread that computes
        self._outbox: list[_Letter] = []
        self._going = self._closed = False

    @classmethod
    def load(cls, name: str, checkpoint: str, options: BuiltInOptions | None = None) -> BuiltIn:
        """Load a checkpoint of ours, by folder or ``starter``.

        Raises:
            VistuneError: it cannot be loaded, or ``int8`` cannot be had here.
        """
        return worker.submit(cls._load, name, checkpoint, options or BuiltInOptions()).result()

    @classmethod
    def _load(cls, name: str, checkpoint: str, options: BuiltInOptions) -> BuiltIn:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        dtype = getattr(torch, options.dtype or ("bfloat16" if device.type == "cuda" else "float32"))
        loaded = load_checkpoint(checkpoint, dtype=dtype)
        loaded.model.to(device)
        if options.int8:
            _to_int8(loaded)
        card = {
            "checkpoint": fingerprint(checkpoint),
            "template": loaded.recipe.template,
            "vision": loaded.recipe.vision,
            "llm": loaded.recipe.llm,
            "connector": loaded.recipe.connector,
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
            "patches": loaded.model.vision.patches,
            "context": loaded.recipe.max_length,
            "dtype": "int8" if options.int8 else str(dtype).removeprefix("torch."),
            "device": str(device),
        }
        return cls(name, loaded, card, options)

    async def answer(self, request: ChatRequest) -> AsyncIterator[Piece]:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        if self._taken >= self._options.rows + self._options.queue:
            raise BusyError(_AFTER_A_WHILE)
        self._taken += 1
        job = None
        try:
            loop = asyncio.get_running_loop()
            prepared = await loop.run_in_executor(self._preparing, prepare, self.checkpoint, request)
            mailbox = _Mailbox(loop, self._outbox)
            job = self._job(request, prepared, mailbox)
            worker.later(partial(self._take, job))
            async for piece in mailbox.pieces():
                yield piece
        finally:
            self._taken -= 1
            if job is not None:
                job.cancelled = True  # of no effect where it has ended

    def state(self) -> Mapping[str, float]:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        batcher, counts = self._batcher, self._batcher.counts
        running = len(batcher.running)
        return {
            "running": running,
            "waiting": max(0, self._taken - running),
            "cache_bytes": batcher.prefixes.bytes,
            "cache_entries": len(batcher.prefixes),
            "tokens_read": counts.read,
            "tokens_cached": counts.cached,
            "tokens_written": counts.written,
            "cancelled": counts.cancelled,
        }

    async def close(self) -> None:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        await asyncio.wrap_future(worker.submit(self._end))
        self._preparing.shutdown()

    def _job(self, request: ChatRequest, prepared: Prepared, mailbox: _Mailbox) -> Job:
        writer = Writer(self.checkpoint.tokenizer, request.sampling.stop)
        return Job(prepared, request.sampling, writer, mailbox.put, request.streamed)

    def _take(self, job: Job) -> None:
        """Take in who has come."""
        self._batcher.waiting.append(job)
        if self._closed:
            self._end()
        elif not self._going:
            self._going = True
            worker.later(self._turn)

    def _turn(self) -> None:
        """A step, and another one as long as there is something to do."""
        if self._closed:
            return
        try:
            self._batcher.step()
        except Exception as error:  # whoever waits must hear of it, and the engine goes on
            self._batcher.fail(EngineError(f"{type(error).__name__}: {error}"))
        self._send()
        self._going = bool(self._batcher.running or self._batcher.waiting)
        if self._going:
            worker.later(self._turn)

    def _end(self) -> None:
        self._closed = True
        self._batcher.fail(EngineError("The engine was stopped."))
        self._send()

    def _send(self) -> None:
        """Wake each event loop once for all that a step has written."""
        loops: dict[asyncio.AbstractEventLoop, list[_Letter]] = {}
        for letter in self._outbox:
            loops.setdefault(letter.mailbox.loop, []).append(letter)
        self._outbox.clear()
        for loop, letters in loops.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_deliver, letters)


@dataclass
class _Mailbox:
    """Pieces from the thread that computes to the event loop."""

    loop: asyncio.AbstractEventLoop
    outbox: list[_Letter]
    queue: asyncio.Queue[Piece | Exception] = field(default_factory=asyncio.Queue)

    def put(self, piece: Piece | Exception) -> None:
        self.outbox.append(_Letter(self, piece))

    async def pieces(self) -> AsyncIterator[Piece]:
        while True:
            piece = await self.queue.get()
            if isinstance(piece, Exception):
                raise piece
            yield piece
            if piece.finish:
                return


class _Letter(NamedTuple):
    mailbox: _Mailbox
    piece: Piece | Exception


def _deliver(letters: list[_Letter]) -> None:
    for mailbox, piece in letters:
        mailbox.queue.put_nowait(piece)


def _to_int8(checkpoint: Checkpoint) -> None:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise VistuneError("int8 weights need torchao: pip install torchao.") from error
    quantize_(checkpoint.model.language_model, Int8WeightOnlyConfig())
