"""What a line can say beside a question."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from vistune.errors import VistuneError
from vistune.serve.session import ChatSession
from vistune.serve.terminal.paths import one_path, paths_in, pictures_in
from vistune.serve.terminal.saving import save

QUIT = ("/quit", "/exit")
_PICTURES_SHOWN = 8
HELP = """\
Ask in a line of its own. Beside questions:
  /image FILE ...   new pictures, for the next question; their paths alone,
                    dropped on the terminal, do the same
  /image            which pictures come with the next question
  /reset            start anew, with the pictures that were shown last
  /reset all        start anew without them
  /save FILE        write the conversation in LLaVA's JSON
  /save! FILE       the same, in the place of what is there
  /help             this
  /quit             end, as Ctrl-D does; Ctrl-C stops an answer
A question that begins with / needs a space before it."""


def obey(session: ChatSession, line: str) -> str | None:
    """Do what a line says, other than :data:`QUIT`.

    Returns:
        What to tell of it; None for a line that is a question.

    Raises:
        VistuneError: it cannot be done.
    """
    if pictures := pictures_in(line):
        return _show(session, pictures)
    if not line.startswith("/"):
        return None
    name, _, rest = line.strip().partition(" ")
    if name not in _COMMANDS:
        return f"Unknown command {name}. /help lists them."
    return _COMMANDS[name](session, rest.strip())


def _image(session: ChatSession, rest: str) -> str:
    if rest:
        return _show(session, paths_in(rest))
    if not session.waiting:
        return "No new picture comes with the next question."
    return f"With the next question: {_listed(session.waiting)}"


def _show(session: ChatSession, paths: Sequence[Path]) -> str:
    for path in paths:
        session.show(path)
    return f"With the next question: {_listed(session.waiting)}"


def _reset(session: ChatSession, rest: str) -> str:
    if rest not in ("", "all"):
        raise VistuneError(f"/reset {rest}: expected nothing, or `all` to drop the pictures, too.")
    session.reset(pictures=not rest)
    return "Starting anew" + (f", with {_listed(session.waiting)}." if session.waiting else ".")


def _save(session: ChatSession, rest: str, replace: bool = False) -> str:
    if not rest:
        raise VistuneError("/save: name a file, as in /save talk.json.")
    file = one_path(rest)
    folder = save(session.turns, file, replace)
    return f"Saved. To check it: {shlex.join(['vistune', 'check', str(file), '--images', str(folder)])}"


def _replace(session: ChatSession, rest: str) -> str:
    return _save(session, rest, replace=True)


def _help(session: ChatSession, rest: str) -> str:
    return HELP


def _listed(paths: Sequence[Path]) -> str:
    shown = ", ".join(path.name for path in paths[:_PICTURES_SHOWN])
    more = len(paths) - _PICTURES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


_COMMANDS: dict[str, Callable[[ChatSession, str], str]] = {
    "/image": _image,
    "/reset": _reset,
    "/save": _save,
    "/save!": _replace,
    "/help": _help,
}
