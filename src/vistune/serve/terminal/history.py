"""Line editing at the prompt, and what was typed before, from one start to the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from vistune.progress import say

_MOST = 1000  # lines


def history_file() -> Path:
    """Where the user's lines are kept, readable by nobody else."""
    return platformdirs.user_state_path("vistune") / "chat_history"


@contextmanager
def line_editing(keep: bool) -> Iterator[None]:
    """Let ``input`` edit lines and recall earlier ones; with ``keep``, those of earlier chats, and for later
    ones. Where Python has no readline (Windows), the terminal's own editing is all there is.

    A file that cannot be read or written is told; the chat goes on.
    """
    try:
        import readline
    except ImportError:
        yield
        return
    readline.clear_history()
    file = history_file()
    before = _read(file) if keep else []
    for line in before:
        readline.add_history(line)
    try:
        yield
    finally:
        count = readline.get_current_history_length()
        typed = [readline.get_history_item(number + 1) for number in range(len(before), count)]
        if keep and typed:
            _write(file, [*_read(file, quiet=True), *typed])  # another chat may have written meanwhile
        readline.clear_history()


def _read(file: Path, quiet: bool = False) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()[-_MOST:]
    except FileNotFoundError:
        return []
    except OSError as error:
        if not quiet:
            say(f"{file}: earlier lines cannot be read: {error.strerror}.")
        return []


def _write(file: Path, lines: list[str]) -> None:
    part = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as out:
            out.writelines(f"{line}\n" for line in lines[-_MOST:])
        part.replace(file)
    except OSError as error:
        say(f"{file}: lines cannot be kept: {error.strerror}. --no-history keeps none.")
