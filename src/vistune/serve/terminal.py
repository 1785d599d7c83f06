"""``vistune chat``: a conversation in the terminal."""

from __future__ import annotations

import sys
from pathlib import Path

from vistune.model.checkpoint import load_checkpoint
from vistune.progress import say
from vistune.serve.session import ChatSession

_HELP = "Ask about the picture. /reset starts anew, /quit ends."


def chat(checkpoint: str, picture: Path | None, question: str | None) -> None:
    """Answer ``question``, or talk until the user ends it."""
    session = ChatSession(load_checkpoint(checkpoint), picture)
    if question is not None:
        _answer(session, question)
        return
    say(_HELP)
    while (line := _read()) is not None:
        if line in ("/quit", "/exit"):
            return
        if line == "/reset":
            session.reset()
            say("Starting anew; the picture stays.")
        elif line.startswith("/"):
            say(f"Unknown command {line.split()[0]}. {_HELP}")
        elif line:
            _answer(session, line)


def _answer(session: ChatSession, question: str) -> None:
    for piece in session.ask(question):
        print(piece, end="", flush=True)
    print()


def _read() -> str | None:
    """A line of the user, or None at the end of input."""
    try:
        return input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
