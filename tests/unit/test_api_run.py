"""What `vistune serve` is told: refused before anything is loaded, or served."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.conftest import needs_torch
from vistune.errors import VistuneError
from vistune.serve import run
from vistune.serve.api.addresses import bind, is_loopback, url_of
from vistune.serve.options import ServeOptions, named, options_of
from vistune.serve.run import serve

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch):
    monkeypatch.delenv("VISTUNE_API_KEY", raising=False)

    def load(*_):
        raise AssertionError("loaded")

    monkeypatch.setattr(run, "_load", load)


def test_models_are_named_by_their_folders_or_as_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b").mkdir()
    assert named(("starter", "x/y/", "big=/models/one", "a=b")) == {
        "starter": "starter",
        "y": "x/y/",
        "big": "/models/one",
        "a=b": "a=b",
    }
    assert named((".",)) == {tmp_path.name: "."}
    for wrong in (("=x",), ("x=",), ("x/c", "y/c")):
        with pytest.raises(VistuneError, match=r"NAME="):
            named(wrong)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({}, "Name a checkpoint"),
        ({"base_url": "http://x/v1", "engine": "vllm"}, "--engine would be ignored"),
        ({"base_url": "http://x/v1", "int8": True}, "`int8`"),
        ({"checkpoints": ("a",), "engine": "vllm", "cache": 2.0}, "`cache`"),
        ({"checkpoints": ("a",), "engine_arguments": ("--x",)}, "need --engine"),
        ({"checkpoints": ("a",), "host": "0.0.0.0"}, "VISTUNE_API_KEY.*--allow-open"),
        ({"checkpoints": ("a",), "host": "::"}, "--allow-open"),
        ({"checkpoints": ("a",), "host": "no.such.host.invalid", "allow_open": True}, "--host"),
    ],
)
def test_what_cannot_be_served_so_is_refused_first(given, reason):
    with pytest.raises(VistuneError, match=reason):
        serve(ServeOptions(**given))


@pytest.mark.parametrize("key", ["", " ", "a\nb", "schlüssel"])
def test_a_key_that_is_none_is_refused(monkeypatch, key):
    monkeypatch.setenv("VISTUNE_API_KEY", key)
    with pytest.raises(VistuneError, match="VISTUNE_API_KEY is empty"):
        serve(ServeOptions(checkpoints=("a",)))


def test_with_a_key_a_public_address_is_served(monkeypatch):
    monkeypatch.setenv("VISTUNE_API_KEY", "key")
    with pytest.raises(AssertionError, match="loaded"):
        serve(ServeOptions(checkpoints=("a",), host="0.0.0.0", port=0))


def test_a_port_in_use_is_told_before_models_are_loaded():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(VistuneError, match=rf"127.0.0.1:{port} cannot be listened on.*--port"):
            serve(ServeOptions(checkpoints=("a",), port=port))


def test_options_of_a_command_line_say_what_is_wrong():
    assert options_of(checkpoints=("a",), engine=None, cache=None) == ServeOptions(checkpoints=("a",))
    with pytest.raises(VistuneError, match="--engine 'tgi': Input should be 'built-in'"):
        options_of(engine="tgi")


def test_addresses():
    assert is_loopback("127.0.0.1") and is_loopback("localhost") and is_loopback("::1")
    assert not is_loopback("0.0.0.0") and not is_loopback("10.0.0.1") and not is_loopback("example.org")
    with bind("0.0.0.0", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


PROGRAM = """
import sys
from tests.fake_engine import FakeEngine
from vistune.serve import run
from vistune.serve.options import ServeOptions

class Told(FakeEngine):
    async def close(self):
        print("closed, running", self.running, flush=True)

run._GRACE = float(sys.argv[1])
run._load = lambda models, options, engines: engines.update(fake=Told())
run.serve(ServeOptions(checkpoints=("fake",), port=0, page=False))
print("ended", flush=True)
"""


@needs_torch
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_in_order(number):
    """Answers end with an error after the grace, engines are closed, and the exit is clean."""
    command = [sys.executable, "-c", PROGRAM, "0.3"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=env, cwd=ROOT) as server:
        line = server.stderr.readline()
        url = line.split(" at ")[1].split()[0]

        async def ask():
            body = {"model": "fake", "messages": [{"role": "user", "content": "/slow"}], "stream": True}
            async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=30) as http:
                async with http.stream("POST", "/v1/chat/completions", json=body) as reply:
                    lines = []
                    async for line in reply.aiter_lines():
                        lines += [line] if line else []
                        if "slow" in line:
                            server.send_signal(number)
                return lines

        *_, last = asyncio.run(ask())
        told, log = server.communicate(timeout=30)
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
    assert told.splitlines() == ["closed, running 0", "ended"] and server.returncode == 0
    assert "Traceback" not in log and "/slow" not in log
