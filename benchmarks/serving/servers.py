"""Servers as users start them, each in a process of its own, and ended by its own id."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import httpx

_START, _END = 180.0, 30.0  # seconds
_BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Server:
    """Attributes:
    url: without a path.
    model: the name that requests ask for.
    started: seconds until it was healthy.
    """

    url: str
    model: str
    pid: int
    started: float

    def resident(self) -> float:
        """MiB that it holds now."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    def figures(self) -> dict[str, float]:
        """``/metrics``: values by name and labels, as they are written there."""
        page = httpx.get(f"{self.url}/metrics", timeout=60).raise_for_status().text
        rows = (line.rsplit(" ", 1) for line in page.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in rows}

    def figure(self, start: str, *labels: str) -> float:
        """The sum of the figures of a name, with these labels among theirs."""
        figures = self.figures().items()
        return sum(
            value
            for name, value in figures
            if name.split("{")[0] == start and all(label in name for label in labels)
        )


@contextmanager
def serve_vistune(folder: Path, *options: str) -> Iterator[Server]:
    """``vistune serve FOLDER``, by the name that it gives the model."""
    with _served([str(_BIN / "vistune"), "serve", str(folder), *options], None) as server:
        yield server


@contextmanager
def serve_transformers(folder: Path, *options: str) -> Iterator[Server]:
    """``transformers serve FOLDER`` in float32, as ours is."""
    command = [str(_BIN / "transformers"), "serve", str(folder), "--device", "cpu", "--dtype", "float32"]
    with _served([*command, *options], str(folder)) as server:
        yield server


@contextmanager
def _served(command: Sequence[str], model: str | None) -> Iterator[Server]:
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    begun = time.perf_counter()
    with TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
        try:
            _wait(process, url, log)
            started = time.perf_counter() - begun
            yield Server(url, model or _first_model(url), process.pid, started)
            if process.poll() is not None:
                raise RuntimeError(f"The server ended by itself:\n{_tail(log)}")
        finally:
            _end(process)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _wait(process: subprocess.Popen[bytes], url: str, log: IO[str]) -> None:
    """Until ``/health`` is 200."""
    end = time.monotonic() + _START
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"The server did not start (exit status {process.returncode}):\n{_tail(log)}")
        try:
            if httpx.get(f"{url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise RuntimeError(f"The server is not healthy after {_START:.0f} s:\n{_tail(log)}")


def _first_model(url: str) -> str:
    name: str = httpx.get(f"{url}/v1/models", timeout=60).raise_for_status().json()["data"][0]["id"]
    return name


def _tail(log: IO[str]) -> str:
    log.seek(0)
    return log.read()[-3000:]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_END)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
