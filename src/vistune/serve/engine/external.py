"""vLLM or SGLang, started on a checkpoint, behind our guards and our page."""

from __future__ import annotations

import asyncio
import http.client
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from vistune.conversation import IMAGE_PLACEHOLDER
from vistune.errors import VistuneError
from vistune.model import parts
from vistune.progress import say
from vistune.serve.engine.engine import ChatRequest, EngineError, Piece
from vistune.serve.engine.guardian import GRACE
from vistune.serve.engine.launch import HOST, KINDS, Kind, command_of, read_exported
from vistune.serve.engine.remote import Remote, RemoteOptions
from vistune.serve.engine.server import Server

_LOOK, _TELL = 0.25, 15.0  # seconds between two looks, and between two lines of progress
_LINES = 15  # of the log, where it failed
_SHORTEST_REST, _LONGEST_REST = 1.0, 60.0  # seconds before a dead engine is started again
_STEADY = 600.0  # seconds after which its deaths are no longer counted as one series
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class ExternalOptions:
    """How the engine is started.

    Attributes:
        kind: which one.
        arguments: of the user's own, passed on.
        log: file for what it prints; None: among the user's logs.
        patience: seconds that it may take to be ready.
        in_flight: requests at a time; more are told to come again.
    """

    kind: Kind
    arguments: Sequence[str] = ()
    log: Path | None = None
    patience: float = 1800.0
    in_flight: int = 256


class NotReadyError(EngineError):
    """The engine's process has died, or is starting again."""

    retry_after = 10.0


class External:
    """An engine's process and a :class:`Remote` in front of it.

    It ends with us, however we end (:mod:`vistune.serve.engine.guardian`), and is started again if it dies.
    """

    def __init__(self, name: str, checkpoint: str, options: ExternalOptions) -> None:
        exported = read_exported(Path(parts.resolve(checkpoint)))
        self.name, self._options, self._port = name, options, _free_port()
        model = re.sub(r"[^\w.-]", "-", name)  # SGLang takes no colon
        self._command = command_of(options.kind, exported, model, self._port, options.arguments)
        self._log = options.log or platformdirs.user_log_path("vistune") / f"{options.kind}-{model}.log"
        self.context: int | None = exported.context
        recipe = exported.recipe
        self.card: Mapping[str, Any] = {
            "engine": KINDS[options.kind],
            **{key: recipe.get(key) for key in ("template", "vision", "llm", "connector")},
            "context": exported.context,
        }
        reserved = tuple({IMAGE_PLACEHOLDER, *exported.special})
        stops = () if exported.stop is None else (exported.stop,)
        server = Server(f"http://{HOST}:{self._port}/v1", model, exported.context)
        self._remote = Remote(name, server, self.card, RemoteOptions(options.in_flight, reserved, stops))
        self._restarts = 0
        self._ready, self._closing = threading.Event(), threading.Event()
        self._launching = threading.Lock()  # nothing is launched once we are closing
        self._child: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls, name: str, checkpoint: str, options: ExternalOptions) -> External:
        """Start the engine and wait until it is ready.

        Raises:
            VistuneError: it is not installed, does not take the checkpoint, ended, or took too long.
        """
        external = cls(name, checkpoint, options)
        try:
            external._launch()
            external._wait_until_ready()
        except BaseException:  # Ctrl-C while it loads, too
            external._end()
            raise
        threading.Thread(target=external._watch, name=f"engine {name}", daemon=True).start()
        return external

    async def answer(self, request: ChatRequest) -> AsyncGenerator[Piece, None]:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        if not self._ready.is_set():
            raise NotReadyError(f"{self._options.kind} is not ready; its log is {self._log}.")
        async with aclosing(self._remote.answer(request)) as pieces:
            async for piece in pieces:
                yield piece

    def state(self) -> Mapping[str, float]:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        return {**self._remote.state(), "ready": float(self._ready.is_set()), "restarts": self._restarts}

    async def close(self) -> None:
        """See :class:`vistune.serve.engine.engine.Engine`."""
        self._ready.clear()
        await self._remote.close()
        await asyncio.to_thread(self._end)

    def _launch(self) -> None:
        self._log.parent.mkdir(parents=True, exist_ok=True)
        say(f"{self._options.kind}: starting; its log is {self._log}")
        with self._launching, open(self._log, "ab" if self._restarts else "wb") as log:
            if self._closing.is_set():
                return
            self._child = subprocess.Popen(
                [sys.executable, "-m", "vistune.serve.engine.guardian", str(GRACE), *self._command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us, and we end it
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    def _wait_until_ready(self) -> None:
        began = told = time.monotonic()
        while not self._closing.is_set():
            now = time.monotonic()
            if self._process.poll() is not None:
                raise self._failure(f"ended with status {self._process.returncode} before it was ready")
            if self._is_healthy():
                say(f"{self._options.kind}: ready after {now - began:.0f} s")
                self._ready.set()
                return
            if now - began > self._options.patience:
                raise self._failure(f"was not ready after {self._options.patience:.0f} s")
            if now - told > _TELL:
                told = now
                last = _tail(self._log, 1)
                say(f"{self._options.kind}: starting, {now - began:.0f} s … {last[-1][:120] if last else ''}")
            self._closing.wait(_LOOK)

    def _watch(self) -> None:
        """The engine's thread: start it again when it dies, after a rest that grows with its deaths."""
        rest = _SHORTEST_REST
        while True:
            began = time.monotonic()
            status = self._process.wait()
            self._ready.clear()
            if self._closing.is_set():
                return
            # Its last lines may hold what somebody asked: they stay in its log.
            say(f"{self._options.kind} ended with status {status}; its log is {self._log}")
            rest = _SHORTEST_REST if time.monotonic() - began > _STEADY else rest
            if self._closing.wait(rest):
                return
            rest = min(2 * rest, _LONGEST_REST)
            self._restarts += 1
            try:
                self._launch()
                self._wait_until_ready()
            except (VistuneError, OSError) as error:
                say(f"{error}")
                self._stop_child()

    def _end(self) -> None:
        with self._launching:
            self._closing.set()
        self._stop_child()

    def _stop_child(self) -> None:
        if self._child is None:
            return
        assert self._child.stdin is not None
        self._child.stdin.close()  # the guardian's sign
        try:
            self._child.wait(GRACE + 5)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()

    @property
    def _process(self) -> subprocess.Popen[bytes]:
        assert self._child is not None
        return self._child

    def _is_healthy(self) -> bool:
        try:
            with _NO_PROXY.open(f"http://{HOST}:{self._port}/health", timeout=5) as reply:
                return bool(reply.status == 200)
        except (OSError, http.client.HTTPException):  # of urllib, all its errors are OSErrors
            return False

    def _failure(self, what: str) -> VistuneError:
        lines = "".join(f"\n  {line}" for line in _tail(self._log, _LINES)) or " (none)"
        return VistuneError(f"{self._options.kind} {what}. The last lines of {self._log}:{lines}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
        return port


def _tail(log: Path, lines: int) -> list[str]:
    """The last lines that hold something; terminals' colours left out."""
    with open(log, "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 65536))
        text = file.read().decode("utf-8", "replace")
    text = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).replace("\r", "\n")
    return [line.rstrip() for line in text.split("\n") if line.strip()][-lines:]
