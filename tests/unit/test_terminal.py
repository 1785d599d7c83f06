"""``vistune chat``: at a terminal, through pipes, and what it saves."""

import io
import json
import os
import pty
import select
import shlex
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny import tiny_checkpoint
from vistune.conversation import Picture, from_json, gpt, human
from vistune.data.check.run import CheckSettings, check
from vistune.errors import VistuneError
from vistune.serve.session import ChatSession
from vistune.serve.terminal import ChatOptions, chat
from vistune.serve.terminal.commands import HELP, obey
from vistune.serve.terminal.history import history_file, line_editing
from vistune.serve.terminal.interrupts import Interrupts
from vistune.serve.terminal.paths import one_path, paths_in, pictures_in
from vistune.serve.terminal.saving import save

chat_module = sys.modules["vistune.serve.terminal.chat"]
SHORT = ChatOptions(max_tokens=8)


@pytest.fixture
def picture(tmp_path):
    return painted(tmp_path / "a cat.png")


def painted(path, colour="teal"):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (40, 30), colour).save(path)
    return path


@pytest.fixture
def session(tokenizer):
    return ChatSession(tiny_checkpoint(tokenizer), SHORT.sampling())


@pytest.fixture
def tiny(tokenizer, monkeypatch):
    """Any checkpoint is a tiny one."""
    checkpoint = tiny_checkpoint(tokenizer)
    monkeypatch.setattr(chat_module, "_load", lambda name: checkpoint)
    return checkpoint


def piped(monkeypatch, capfd, text, **options):
    """Standard output and error of a chat whose input is a pipe."""
    given = text if isinstance(text, bytes) else text.encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
    chat("tiny", ChatOptions(**{"max_tokens": 8, **options}))
    return capfd.readouterr()


def answers_of(checkpoint, *questions, images=()):
    session = ChatSession(checkpoint, SHORT.sampling())
    for image in images:
        session.show(image)
    return ["".join(session.ask(question)) for question in questions]


# Through pipes


def test_each_line_is_asked_and_only_answers_are_on_standard_output(tiny, monkeypatch, capfd, picture):
    text = f"What?\n\n/image {picture}\nAnd here?\n/help\n/nonsense\n/quit\nnever asked\n"
    out, err = piped(monkeypatch, capfd, text)
    session = ChatSession(tiny, SHORT.sampling())
    expected = ["".join(session.ask("What?"))]
    session.show(picture)
    expected.append("".join(session.ask("And here?")))
    assert any("\n" in answer for answer in expected)  # which would be read as two
    assert out == "".join(answer.replace("\n", " ") + "\n" for answer in expected)
    assert HELP in err and "Unknown command /nonsense" in err and "a cat.png" in err


def test_ask_answers_once_and_reads_no_input(tiny, monkeypatch, capfd, tmp_path):
    images = tuple(painted(tmp_path / f"{colour}.png", colour) for colour in ("red", "blue"))
    out, _ = piped(monkeypatch, capfd, "never asked\n", ask="What?", images=images)
    assert [out] == [answer + "\n" for answer in answers_of(tiny, "What?", images=images)]
    assert out != answers_of(tiny, "What?", images=images[:1])[0] + "\n"


def test_away_from_a_terminal_an_error_ends_the_command_and_names_the_line(tiny, monkeypatch, capfd):
    with pytest.raises(VistuneError, match=r"line 2 of the input: .*nowhere.png: picture is missing"):
        piped(monkeypatch, capfd, "What?\n/image nowhere.png\nWhat is this?\n")
    assert capfd.readouterr().out.count("\n") == 1


def test_input_that_is_not_text_is_told(tiny, monkeypatch, capfd):
    with pytest.raises(VistuneError, match="not valid UTF-8"):
        piped(monkeypatch, capfd, b"\xff\xfe\n")


def test_an_empty_answer_is_an_empty_line(tiny, monkeypatch, capfd):
    monkeypatch.setattr(ChatSession, "ask", lambda self, question: (piece for piece in ("", "")))
    out, err = piped(monkeypatch, capfd, "What?\nWhere?\n")
    assert out == "\n\n" and err.count("not kept") == 2


def test_a_reader_that_has_enough_ends_the_chat_quietly(tmp_path):
    code = "from vistune.serve.terminal import *; chat('starter', ChatOptions())"
    command = f"yes 'What is it?' | head -50 | {shlex.quote(sys.executable)} -c {shlex.quote(code)} | head -1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.count("\n") == 1 and "Error" not in done.stderr, done.stderr


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "--temperature -1: expected 0 or more"),
        ({"temperature": float("nan")}, "--temperature nan"),
        ({"temperature": 1, "top_p": 0}, "--top-p 0: expected above 0"),
        ({"temperature": 1, "seed": -1}, "--seed -1"),
        ({"max_tokens": 0}, "--max-tokens 0"),
        ({"seed": 3}, "--seed would be ignored at temperature 0"),
        ({"top_p": 0.5}, "--top-p would be ignored at temperature 0"),
    ],
)
def test_options_that_cannot_be_used_are_refused_before_anything_is_loaded(options, message):
    with pytest.raises(VistuneError, match=message):
        chat("no-such-checkpoint", ChatOptions(**options))


def test_options_reach_the_sampler():
    sampling = ChatOptions(temperature=0.7, top_p=0.9, seed=5, max_tokens=3).sampling()
    assert (sampling.temperature, sampling.top_p, sampling.seed, sampling.max_tokens) == (0.7, 0.9, 5, 3)


# Lines that are no questions


def test_a_line_of_pictures_shows_them_as_the_command_does(session, picture, tmp_path):
    other = painted(tmp_path / "dog.png")
    assert "a cat.png" in obey(session, str(picture))
    assert obey(session, f"{shlex.quote(str(picture))} {other}")
    assert session.waiting == [picture, picture, other]
    session.reset(pictures=False)
    assert obey(session, f"/image '{picture}' {other}") == "With the next question: a cat.png, dog.png"
    assert obey(session, "/image") == "With the next question: a cat.png, dog.png"


def test_questions_are_no_commands(session, picture):
    for question in ["What is in a cat.png?", "what's this", " /etc is what?", "README", ""]:
        assert obey(session, question) is None
    assert session.waiting == []


def test_paths_are_read_as_terminals_write_them(picture, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    forms = [str(picture), f"'{picture}'", str(picture).replace(" ", "\\ "), picture.as_uri(), f"{picture} "]
    for form in [*forms, "~/a cat.png"]:
        assert pictures_in(form) == [picture], form
    assert pictures_in(f"{picture.as_uri()} ~/'a cat.png'") == [picture] * 2
    assert pictures_in(str(tmp_path)) == pictures_in("\0") == pictures_in("x" * 5000) == []
    (tmp_path / "text.png").write_text("no picture")
    assert pictures_in(str(tmp_path / "text.png")) == []
    assert one_path("my talk.json") == one_path("'my talk.json'") == Path("my talk.json")
    assert paths_in("~/x") == [tmp_path / "x"]


def test_a_file_that_is_no_picture_is_told_by_the_command(session, tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    with pytest.raises(VistuneError, match=r"x.png: not a picture"):
        obey(session, f"/image {tmp_path / 'x.png'}")


def test_reset_with_and_without_the_pictures(session, picture):
    obey(session, str(picture))
    first = "".join(session.ask("What?"))
    assert obey(session, "/reset") == "Starting anew, with a cat.png."
    assert "".join(session.ask("What?")) == first
    assert obey(session, "/reset all") == "Starting anew."
    assert session.waiting == [] and session.turns == ()
    with pytest.raises(VistuneError, match="/reset everything: expected"):
        obey(session, "/reset everything")


# Saving


def test_what_is_saved_is_checked_and_read_back(session, picture, tmp_path):
    obey(session, str(picture))
    answers = ["".join(session.ask(question)) for question in ("What?", "Where?")]
    file = tmp_path / "my talk.json"
    told = obey(session, f"/save {file}")
    report = check(file, tmp_path, CheckSettings(tokenizer="starter", decode=True, workers=1), print)
    assert not report.errors and not report.warnings and report.records == report.pictures == 1
    assert shlex.split(told)[-5:] == ["vistune", "check", str(file), "--images", str(tmp_path)]
    (record,) = json.loads(file.read_text())
    talk = from_json(record)
    assert talk.id == "my talk" and record["image_folder"] == str(tmp_path)
    first = human(Picture("a cat.png"), "\nWhat?")
    assert talk.turns == (first, gpt(answers[0]), human("Where?"), gpt(answers[1]))


def test_pictures_elsewhere_are_named_from_the_folder_that_they_share(session, tmp_path):
    paths = [painted(tmp_path / "far" / name) for name in ("x/1.png", "y/z/2.png")]
    for path in paths:
        session.show(path)
    "".join(session.ask("What?"))
    (tmp_path / "here").mkdir()
    folder = save(session.turns, tmp_path / "here" / "talk.json")
    (record,) = json.loads((tmp_path / "here" / "talk.json").read_text())
    assert folder == tmp_path / "far" and record["image"] == ["x/1.png", "y/z/2.png"]


def test_nothing_is_overwritten_unless_asked(session, tmp_path):
    file = tmp_path / "talk.json"
    with pytest.raises(VistuneError, match="no answered question"):
        obey(session, f"/save {file}")
    "".join(session.ask("What?"))
    file.write_text("precious")
    with pytest.raises(VistuneError, match=r"talk.json: exists already.*/save! "):
        obey(session, f"/save {file}")
    assert file.read_text() == "precious"
    obey(session, f"/save! {file}")
    assert len(json.loads(file.read_text())) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["talk.json"]


def test_what_cannot_be_saved_is_told(session, tmp_path):
    "".join(session.ask("What is an <image>?"))
    with pytest.raises(VistuneError, match=r"not saved; a text contains `<image>`"):
        obey(session, f"/save {tmp_path / 'talk.json'}")
    session.reset()
    "".join(session.ask("What?"))
    with pytest.raises(VistuneError, match=r"talk.json: cannot be written: No such file"):
        obey(session, f"/save {tmp_path / 'no' / 'talk.json'}")
    with pytest.raises(VistuneError, match=r"name a file"):
        obey(session, "/save")


# What was typed


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return history_file()


def test_lines_are_kept_for_next_time_and_for_nobody_else(state):
    readline = pytest.importorskip("readline")
    with line_editing(keep=True):
        readline.add_history("first")
    with line_editing(keep=True):
        assert readline.get_history_item(1) == "first"
        readline.add_history("second")
        with open(state, "a") as file:
            file.write("of another chat\n")
    assert state.read_text().splitlines() == ["first", "of another chat", "second"]
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    assert [path.name for path in state.parent.iterdir()] == [state.name]


def test_without_history_nothing_is_read_or_kept(state):
    readline = pytest.importorskip("readline")
    state.parent.mkdir(parents=True)
    state.write_text("of before\n")
    with line_editing(keep=False):
        assert readline.get_current_history_length() == 0
        readline.add_history("secret")
    assert state.read_text() == "of before\n"


def test_history_that_cannot_be_kept_is_told_and_ends_nothing(state, capfd):
    readline = pytest.importorskip("readline")
    state.parent.parent.mkdir(parents=True)
    state.parent.write_text("a file in the place of the folder")
    with line_editing(keep=True):
        readline.add_history("first")
    told = capfd.readouterr().err
    assert "cannot be kept" in told and "--no-history" in told


# At a terminal

LONG = "Describe the picture in detail."
SLOWLY = """
import time, sys
from pathlib import Path
from vistune.cli.main import hush
from vistune.serve.engine.batcher import Batcher
from vistune.serve.terminal import ChatOptions, chat
step = Batcher.step
def slow(self):
    time.sleep(0.05)
    step(self)
Batcher.step = slow
hush()
chat("starter", ChatOptions(images=(Path(sys.argv[1]),)))
print("ended")
"""


class Terminal:
    """A chat at a pseudo-terminal."""

    def __init__(self, *arguments, **environment):
        self.ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SLOWLY, *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "dumb", **environment},
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def type(self, text):
        os.write(self.ours, text.encode())

    def until(self, *wanted, seconds=90):
        """All that is shown up to one of WANTED."""
        deadline = time.monotonic() + seconds
        while not (found := [text for text in wanted if text in self.seen]):
            assert time.monotonic() < deadline, (wanted, self.seen)
            if select.select([self.ours], [], [], 0.2)[0]:
                self.seen += os.read(self.ours, 4096).decode()
        before, _, self.seen = self.seen.partition(found[0])
        return before

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def test_at_a_terminal_ctrl_c_stops_the_answer_and_errors_end_nothing(tiny_world, tmp_path):
    picture = next((tiny_world / "images").glob("val_*.jpg"))
    terminal = Terminal(picture, XDG_STATE_HOME=str(tmp_path))
    try:
        terminal.until("> ")
        terminal.type(f"{LONG}\n")
        whole = terminal.until("> ").split(LONG, 1)[1].split()
        assert len(whole) > 8
        terminal.type("/reset\n")
        terminal.until("> ")
        terminal.type(f"{LONG}\n")
        terminal.until(LONG)
        terminal.until(whole[0])
        terminal.process.send_signal(signal.SIGINT)
        stopped = terminal.until("> ").split()
        assert stopped == whole[1 : 1 + len(stopped)] and len(stopped) < len(whole) - 1
        terminal.type("/image nowhere.png\n")
        assert "nowhere.png: picture is missing" in terminal.until("> ")
        time.sleep(1)  # the prompt is shown a moment before it is waited at
        terminal.process.send_signal(signal.SIGINT)  # at the prompt
        terminal.until("/quit or Ctrl-D ends.")
        terminal.until("> ")
        terminal.type(f"/save {tmp_path / 'talk.json'}\n")
        terminal.until("Saved.")
        terminal.until("> ")
        terminal.type("\x04")
        terminal.until("ended")
    finally:
        terminal.close()
    (record,) = json.loads((tmp_path / "talk.json").read_text())
    assert record["conversations"][1]["value"].split() == [whole[0], *stopped]
    kept = (tmp_path / "vistune" / "chat_history").read_text().splitlines()
    assert kept[:2] == [LONG, "/reset"]


def test_ctrl_c_is_noted_once_and_then_does_what_it_did_before():
    class EndedError(Exception):
        pass

    def end(*_):
        raise EndedError

    before = signal.signal(signal.SIGINT, end)
    try:
        with Interrupts() as interrupts:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
            with interrupts.noted():
                signal.raise_signal(signal.SIGINT)
                assert interrupts.came
                with pytest.raises(EndedError):
                    signal.raise_signal(signal.SIGINT)
            with interrupts.noted():
                assert not interrupts.came
        with pytest.raises(EndedError):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_models_words_do_not_command_the_terminal(tiny, monkeypatch, capfd):
    monkeypatch.setattr(ChatSession, "ask", lambda self, question: (p for p in ("a\x1b[2Jb", "\nc\x9b")))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    session = ChatSession(tiny)
    chat_module._answer(session, "What?")
    assert capfd.readouterr().out == "a[2Jb\nc\n"
