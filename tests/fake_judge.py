"""An endpoint in a thread of this process, a judge behind it, and a small benchmark to judge."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from benchmarks.stub_llm import Faults, StubLlm

from tests.fake_llm import Answer, FakeEndpoint, reply
from vistune.evaluate.judge.options import JudgeOptions

KINDS = ("conv", "detail", "complex")


@contextmanager
def in_thread(answer: Answer) -> Iterator[FakeEndpoint]:
    """A :class:`FakeEndpoint` beside code that has an event loop of its own."""
    with _loop() as loop:
        endpoint = FakeEndpoint(answer)
        _do(endpoint.__aenter__(), loop)
        try:
            yield endpoint
        finally:
            _do(endpoint.__aexit__(), loop)


@contextmanager
def stub(faults: Faults | None = None) -> Iterator[str]:
    """The base URL of the stub with its faults; what it writes is ``benchmarks.stub_llm.written``."""
    with _loop() as loop:
        server = TestServer(StubLlm(0.0, faults or Faults()).app())
        _do(server.start_server(shutdown_timeout=0.1), loop)
        try:
            yield str(server.make_url("/v1"))
        finally:
            _do(server.close(), loop)


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def _do(work: Any, loop: asyncio.AbstractEventLoop) -> Any:
    return asyncio.run_coroutine_threadsafe(work, loop).result(30)


def judged(messages: list[dict[str, str]]) -> str:
    """A review that depends on what is judged alone."""
    digest = hashlib.sha256(messages[-1]["content"].encode()).digest()
    return f"{1 + digest[0] % 10} {1 + digest[1] % 10}\nThe answers differ in {digest.hex()[:8]}."


async def fair_judge(number: int, body: dict[str, Any]) -> web.StreamResponse:
    return reply(body, judged(body["messages"]))


def write_bench(folder: Path, questions: int = 6) -> None:
    """Questions on as many pictures as there are thirds, references, answers, and captions as context."""
    rows = range(questions)
    kinds = [KINDS[n % 3] for n in rows]
    asked = [{"question_id": n, "image": f"{n // 3}.jpg", "text": f"Question {n}?"} for n in rows]
    lines(
        folder / "questions.jsonl",
        ({**row, "category": kind} for row, kind in zip(asked, kinds, strict=True)),
    )
    lines(folder / "references.jsonl", ({"question_id": n, "text": f"Reference {n}."} for n in rows))
    # Not in the questions' order: they are joined by id.
    lines(folder / "answers.jsonl", ({"id": str(n), "answer": f"Candidate {n}."} for n in reversed(rows)))
    pictures = range((questions + 2) // 3)
    lines(folder / "context.jsonl", ({"image": f"{n}.jpg", "caption": f"Picture {n}."} for n in pictures))


def lines(path: Path, rows: Iterable[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def options(folder: Path, url: str, **given: Any) -> JudgeOptions:
    """To judge what :func:`write_bench` wrote."""
    files: dict[str, Any] = {
        "data": folder / "questions.jsonl",
        "context": folder / "context.jsonl",
        "references": folder / "references.jsonl",
        "answers": folder / "answers.jsonl",
        "out": folder / "out",
        "ledger": folder / "ledger.sqlite",
    }
    return JudgeOptions(**{"bench": "llava-bench-wild", "model": "stub", "base_url": url, **files, **given})
