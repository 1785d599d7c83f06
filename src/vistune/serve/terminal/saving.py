"""A conversation as a file in LLaVA's JSON, as ``vistune check`` and ``vistune train`` read it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from vistune.conversation import Conversation, Picture, Turn, to_json
from vistune.errors import VistuneError


def save(turns: Sequence[Turn], file: Path, replace: bool = False) -> Path:
    """Write one record, named after the file.

    Data sets name pictures relative to a folder of images: here the file's own, where all of them lie below
    it, else the deepest folder that they share. The record's ``image_folder`` names it.

    Args:
        turns: pictures by their absolute paths.
        replace: write over a file that is there.

    Returns:
        The folder of images.

    Raises:
        VistuneError: there is nothing to save, the file is there, or it cannot be written.
    """
    if not turns:
        raise VistuneError(f"{file}: not saved; there is no answered question yet.")
    if os.path.lexists(file) and not replace:
        raise VistuneError(f"{file}: exists already. `/save! {file}` replaces it.")
    folder = _folder_of(Conversation("", tuple(turns)).pictures, file.absolute().parent)
    relative = [Turn(turn.speaker, tuple(_below(part, folder) for part in turn.content)) for turn in turns]
    try:
        record = to_json(Conversation(file.stem, tuple(relative)))
    except ValueError as error:
        raise VistuneError(f"{file}: not saved; {error}.") from error
    if "image" in record:
        record["image_folder"] = str(folder)
    _write(file, json.dumps([record], indent=2, ensure_ascii=False) + "\n")
    return folder


def _folder_of(pictures: Sequence[str], beside: Path) -> Path:
    if all(Path(picture).is_relative_to(beside) for picture in pictures):
        return beside
    try:
        return Path(os.path.commonpath([os.path.dirname(picture) for picture in pictures]))
    except ValueError as error:  # several drives
        raise VistuneError(f"Not saved; the pictures share no folder: {', '.join(pictures)}.") from error


def _below(part: str | Picture, folder: Path) -> str | Picture:
    return Picture(Path(part.file).relative_to(folder).as_posix()) if isinstance(part, Picture) else part


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(file)
    except OSError as error:
        raise VistuneError(f"{file}: cannot be written: {error.strerror}.") from error
