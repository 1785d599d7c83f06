"""A web of our own: names that lead where a test says, and an HTTPS server on this machine behind them."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from vistune.serve.guards.addresses import PublicResolver

SOMEWHERE = "93.184.216.34"  # public; nothing is ever sent there
NAMES = ("pictures.example.com", "elsewhere.example.com")


class Book(AbstractResolver):
    """Answers a name with the next of its lists of addresses, the last one for good; keeps what was asked."""

    def __init__(self, *answers: list[str], names: dict[str, list[str]] | None = None) -> None:
        self.answers, self.names = list(answers or [[SOMEWHERE]]), names or {}
        self.asked: list[tuple[str, int]] = []

    async def resolve(self, host, port=0, family=socket.AF_UNSPEC):
        self.asked.append((host, port))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [_entry(host, address, port) for address in self.names.get(host, answer)]

    async def close(self) -> None:
        pass


def _entry(host: str, address: str, port: int):
    return {
        "hostname": host,
        "host": address,
        "port": port,
        "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
        "proto": 0,
        "flags": socket.AI_NUMERICHOST,
    }


def lead_here(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Connections to addresses that passed the check come to this machine's port instead."""

    class Rerouted(PublicResolver):
        async def resolve(self, host, port_asked=0, family=socket.AF_UNSPEC):
            await super().resolve(host, port_asked, family)
            return [_entry(host, "127.0.0.1", port)]

    monkeypatch.setattr("vistune.serve.guards.remote.PublicResolver", Rerouted)


def certificate(folder: Path) -> Path:
    """A key and a certificate for ``NAMES`` that nobody trusts by default, in one file."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command, to make a certificate")
    path = folder / "server.pem"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ]
    command += ["-days", "2", "-subj", f"/CN={NAMES[0]}", "-addext", f"subjectAltName={names}"]
    subprocess.run([*command, "-keyout", path, "-out", folder / "c.pem"], check=True, capture_output=True)
    path.write_text(path.read_text() + (folder / "c.pem").read_text())
    return path


@asynccontextmanager
async def https_server(handler: Callable, pem: Path | None) -> Iterator[int]:
    """Serves every path with ``handler``, without TLS where there is no certificate; gives the port."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    tls = None
    if pem is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(pem)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield site._server.sockets[0].getsockname()[1]
    finally:
        await runner.cleanup()


def trusting(pem: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(pem))
