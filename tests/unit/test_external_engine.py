"""vLLM and SGLang as child processes; programs of their names stand in for them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tests import fake_openai
from tests.small_tokenizers import speaking
from tests.tiny import tiny_checkpoint
from tests.unit.test_remote_engine import collect, photograph, request
from vistune.errors import VistuneError
from vistune.model.checkpoint import save_checkpoint
from vistune.model.transfer import export_checkpoint
from vistune.serve.engine import external
from vistune.serve.engine.engine import BadRequestError, EngineError
from vistune.serve.engine.external import External, ExternalOptions
from vistune.serve.engine.launch import read_exported

LONG = 20.0  # seconds that a busy machine may take


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export of a model whose LLM begins with BOS."""
    folder = tmp_path_factory.mktemp("exported")
    tokenizer = speaking("llama-legacy", None)
    tokenizer.pad_token = tokenizer.eos_token
    save_checkpoint(tiny_checkpoint(tokenizer), folder / "run")
    export_checkpoint(str(folder / "run"), folder / "export")
    return folder


class Place:
    """Where the fake engines are, and what they noted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.notes, self.log = folder, folder / "notes.jsonl", folder / "logs" / "engine.log"

    def options(self, kind="vllm", **more):
        return ExternalOptions(kind, log=self.log, **{"patience": LONG, **more})

    @property
    def started(self):
        return [json.loads(line) for line in self.notes.read_text().splitlines()]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_ENGINE_NOTES", str(tmp_path / "notes.jsonl"))
    monkeypatch.setenv("FAKE_ENGINE", "")
    monkeypatch.setattr(external, "_SHORTEST_REST", 0.1)
    (tmp_path / "bin").mkdir()
    for name in ("vllm", "sglang"):
        program = tmp_path / "bin" / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{fake_openai.__file__}" "$@"\n')
        program.chmod(0o755)
    return Place(tmp_path)


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def wait_for(condition, seconds=LONG):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def test_vllm_is_started_on_the_export_and_asked(place, exported, capfd):
    engine = External.start("mine:1", str(exported / "export"), place.options(arguments=["--seed", "3"]))
    assert collect(engine, request("Is it a cat?", a=photograph()))[-1].finish == "stop"
    (child,) = place.started
    port = child["arguments"][child["arguments"].index("--port") + 1]
    assert child["arguments"] == [
        *("serve", str(exported / "export"), "--host", "127.0.0.1", "--port", port),
        *("--served-model-name", "mine-1", "--model-impl", "transformers", "--max-model-len", "512"),
        *("--seed", "3"),
    ]
    assert engine.name == "mine:1" and engine.context == 512 and engine.card["engine"] == "vLLM"
    assert str(exported) not in json.dumps(engine.card)
    assert not alive(child["pid"])  # `collect` has closed the engine
    told = " ".join(capfd.readouterr().err.split())
    assert "ready after" in told and "float32" not in told


def test_sglang_is_started_as_its_documentation_says(place, exported):
    engine = External.start("mine", str(exported / "export"), place.options("sglang"))
    assert collect(engine, request())[-1].finish == "stop"
    arguments = place.started[0]["arguments"]
    assert arguments[:3] == ["serve", "--model-path", str(exported / "export")]
    assert arguments[-4:] == ["--model-impl", "transformers", "--context-length", "512"]


def test_the_slow_are_waited_for(place, exported, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_ENGINE", "slow")
    monkeypatch.setattr(external, "_TELL", 0.3)
    engine = External.start("mine", str(exported / "export"), place.options())
    assert collect(engine, request())[-1].finish == "stop"
    assert "INFO loading the model" in capfd.readouterr().err  # progress


def test_a_crash_at_the_start_shows_the_logs_last_lines(place, exported, monkeypatch):
    monkeypatch.setenv("FAKE_ENGINE", "crash")
    with pytest.raises(VistuneError) as error:
        External.start("mine", str(exported / "export"), place.options())
    lines = str(error.value).splitlines()
    assert "ended with status 7" in lines[0] and str(place.log) in lines[0]
    assert lines[-1] == "  ValueError: no room for the key-value cache"  # without its colours


def test_one_that_is_never_ready_is_given_up(place, exported, monkeypatch):
    monkeypatch.setenv("FAKE_ENGINE", "hangs")
    with pytest.raises(VistuneError, match="was not ready after 2 s"):
        External.start("mine", str(exported / "export"), place.options(patience=2.0))
    assert wait_for(lambda: not alive(place.started[0]["pid"]))


def test_one_that_dies_is_a_503_until_it_is_back(place, exported, monkeypatch, capfd):
    monkeypatch.setenv("FAKE_ENGINE", "dies")
    engine = External.start("mine", str(exported / "export"), place.options())
    assert wait_for(lambda: not alive(place.started[0]["pid"]))

    async def ask():
        return [piece async for piece in engine.answer(request())]

    with pytest.raises(EngineError):
        asyncio.run(ask())
    assert wait_for(lambda: engine.state()["ready"] and engine.state()["restarts"] == 1)
    engine._remote._client = None  # of the loop that is gone
    assert collect(engine, request())[-1].finish == "stop"
    told = capfd.readouterr().err
    assert "ended with status 9" in told and "INFO loading" not in told
    assert place.log.read_text().count("INFO loading") == 2  # what it said before it died is kept
    assert len(place.started) == 2 and not alive(place.started[1]["pid"])


def test_closing_ends_one_that_does_not_hear(place, exported, monkeypatch):
    monkeypatch.setenv("FAKE_ENGINE", "stubborn")
    monkeypatch.setattr(external, "GRACE", 1.0)
    engine = External.start("mine", str(exported / "export"), place.options())
    began = time.monotonic()
    asyncio.run(engine.close())
    assert 1.0 < time.monotonic() - began < 5.0
    assert not alive(place.started[0]["pid"])
    with pytest.raises(EngineError):
        collect(engine, request())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_it_ends_with_us_however_we_end(place, exported, number):
    program = f"""
        import signal, time
        from pathlib import Path
        from vistune.serve.engine.external import External, ExternalOptions
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` lets it be ignored
        options = ExternalOptions("vllm", log=Path({str(place.log)!r}))
        External.start("mine", {str(exported / "export")!r}, options)
        print("ready", flush=True)
        time.sleep(60)
    """
    us = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    assert us.stdout.readline() == b"ready\n"
    pid = place.started[0]["pid"]
    assert alive(pid)
    os.killpg(us.pid, number)  # Ctrl-C goes to the whole group
    us.wait(LONG)
    us.stdout.close()
    assert wait_for(lambda: not alive(pid))


def test_what_a_crashed_engine_leaves_behind_is_ended(tmp_path):
    note = tmp_path / "pid"
    leader = f"sleep 60 & echo $! > {note}; exit 3"  # a worker outlives it
    process = subprocess.Popen(
        [sys.executable, "-m", "vistune.serve.engine.guardian", "1", "/bin/sh", "-c", leader],
        stdin=subprocess.PIPE,
    )
    assert process.wait(LONG) == 3
    process.stdin.close()
    assert wait_for(lambda: not alive(int(note.read_text())), 5)


def test_special_tokens_of_its_model_are_refused(place, exported):
    engine = External.start("mine", str(exported / "export"), place.options())
    try:
        for text in ("<image>", "</s>"):
            with pytest.raises(BadRequestError, match=text):
                asyncio.run(anext(engine.answer(request(f"What {text} is it?"))))
    finally:
        asyncio.run(engine.close())


def test_a_stop_that_is_no_token_is_asked_for(place, tmp_path):
    """vLLM and SGLang end an answer at tokens of generation_config.json, at a text only if told."""
    found = {}
    for template, which in (("v0", "starter"), ("chatml", "chatml"), ("short", "starter")):
        tokenizer = speaking(which, None)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        save_checkpoint(tiny_checkpoint(tokenizer, template=template), tmp_path / template)
        found[template] = read_exported(tmp_path / template).stop
    assert found == {"v0": "###", "chatml": None, "short": None}


def test_one_that_is_not_installed_says_how_to(place, exported, monkeypatch):
    monkeypatch.setenv("PATH", str(place.folder))
    for kind in ("vllm", "sglang"):
        with pytest.raises(VistuneError, match=f"{kind}/bin/pip install {kind}"):
            External.start("mine", str(exported / "export"), place.options(kind))


def test_a_checkpoint_whose_bos_would_be_read_twice_must_be_exported(place, exported):
    with pytest.raises(VistuneError, match=r"vistune export .*run OUT"):
        External.start("mine", str(exported / "run"), place.options())
    assert not place.notes.exists()


def test_float32_is_told_of(place, exported, tmp_path, capfd):
    export_checkpoint(str(exported / "run"), tmp_path / "whole", "float32")
    asyncio.run(External.start("mine", str(tmp_path / "whole"), place.options()).close())
    assert "writes float16" in " ".join(capfd.readouterr().err.split())


def test_another_folder_is_refused(place, tmp_path):
    with pytest.raises(VistuneError, match="not a checkpoint of vistune"):
        External.start("mine", str(tmp_path), place.options())


@pytest.mark.parametrize("argument", ["--port", "--host=0.0.0.0", "--served_model_name", "--model-impl=vllm"])
def test_what_is_ours_to_set_is_refused(place, exported, argument):
    with pytest.raises(VistuneError, match="set by vistune"):
        External.start("mine", str(exported / "export"), place.options(arguments=[argument, "1"]))
