"""The loop: a line, an answer. Answers go to standard output, all else to standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping

import torch

from vistune.errors import VistuneError
from vistune.model.checkpoint import Checkpoint, load_checkpoint
from vistune.progress import console
from vistune.serve.session import ChatSession
from vistune.serve.terminal.commands import QUIT, obey
from vistune.serve.terminal.history import line_editing
from vistune.serve.terminal.interrupts import Interrupts
from vistune.serve.terminal.options import ChatOptions

_PROMPT = "> "
_AS_IT_IS: Mapping[int, str | None] = {}
_ON_ONE_LINE = {ord("\n"): " ", ord("\r"): " "}
_HARMLESS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def chat(checkpoint: str, options: ChatOptions) -> None:
    """Talk at a terminal; or answer one question, or those of a pipe, each line with one line.

    At a terminal, what goes wrong is told and the talk goes on. Elsewhere it ends the command: an answer must
    not be taken for that of another question.

    Args:
        checkpoint: its folder, or ``starter``.

    Raises:
        VistuneError: an option, the checkpoint or a picture cannot be used; away from a terminal, also what a
            line asks for.
    """
    sampling = options.sampling()
    at_terminal = options.ask is None and sys.stdin.isatty()
    if at_terminal:
        _say(f"Loading {checkpoint} ...")
    session = ChatSession(_load(checkpoint), sampling)
    for image in options.images:
        session.show(image)
    try:
        if options.ask is not None:
            _answer(session, options.ask)
        elif at_terminal:
            with line_editing(options.history), Interrupts() as interrupts:
                _talk(session, interrupts)
        else:
            _answer_lines(session)
    except BrokenPipeError:  # whoever reads has enough; nothing may be written when Python ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _load(name: str) -> Checkpoint:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loaded = load_checkpoint(name, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    loaded.model.to(device)
    return loaded


def _answer_lines(session: ChatSession) -> None:
    for number, line in enumerate(_lines(), 1):
        if line.strip() in QUIT:
            return
        try:
            if (told := obey(session, line.rstrip())) is not None:
                _say(told)
            elif line.strip():
                _answer(session, line.strip(), _ON_ONE_LINE)
        except VistuneError as error:
            raise VistuneError(f"line {number} of the input: {error}") from error


def _lines() -> Iterator[str]:
    try:
        yield from sys.stdin
    except UnicodeDecodeError as error:
        raise VistuneError(f"The input is not valid UTF-8: {error}. Convert it first.") from error


def _talk(session: ChatSession, interrupts: Interrupts) -> None:
    _say("Ask about a picture, or about anything. /help tells what else can be typed; Ctrl-D ends.")
    while True:
        try:
            line = _read()
            if line is None or line.strip() in QUIT:
                return
            if (told := obey(session, line.rstrip())) is not None:
                _say(told)
            elif line.strip():
                with interrupts.noted():
                    _answer(session, line.strip(), stopped=lambda: interrupts.came)
        except VistuneError as error:
            _say(str(error))
        except UnicodeDecodeError as error:
            _say(f"That is not valid UTF-8: {error}.")
        except KeyboardInterrupt:
            _say("\n/quit or Ctrl-D ends.")


def _read() -> str | None:
    """A line of the user, or None at the end."""
    try:
        if sys.stdout.isatty():
            return input(_PROMPT)
        print(_PROMPT, end="", file=sys.stderr, flush=True)
        return input()
    except EOFError:
        _say("")
        return None


def _answer(
    session: ChatSession,
    question: str,
    written: Mapping[int, str | None] = _AS_IT_IS,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Print an answer as it comes.

    Args:
        written: how its characters are written, as ``str.translate`` takes it.
    """
    if sys.stdout.isatty():
        written = {**written, **_HARMLESS}  # a model's words must not command the terminal
    answer = session.ask(question)
    silent = True
    for piece in answer:
        if piece:
            silent = False
            print(piece.translate(written), end="", flush=True)
        if stopped():
            answer.close()
    print(flush=True)
    if silent:
        _say("(Not a word: the question is not kept.)")


def _say(text: str) -> None:
    """As :func:`vistune.progress.say`, but no line is cut in two: paths and commands can be copied."""
    console.print(text, markup=False, soft_wrap=True)
