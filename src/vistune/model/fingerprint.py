"""Which checkpoint it was: a name for the content of its files, to be stored beside what it said."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from vistune.errors import VistuneError
from vistune.model import parts
from vistune.model.apart import CONFIG, base_of
from vistune.model.stored import METADATA, read_metadata

# What a model computes with. How it was made (vistune.json, optimizer states) alters no answer.
_WEIGHTS = ("*.safetensors", "*.bin")
_SETTINGS = (
    "*config.json",  # the model's, its generation's, its tokenizer's, its pictures' and its processor's
    "tokenizer.json",
    "*token*map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.jinja",
    "chat_template.json",
)
_NEVER = (CONFIG, "training_args.bin", "optimizer.bin", "scheduler.bin", "random_states*.bin")
_CHUNK = 1 << 20


def fingerprint(name: str | Path) -> str:
    """The same for the same files, wherever they lie; another where anything that is computed with differs.

    Returns:
        Of a folder or an embedded part, ``sha256:`` and the hash of the lines that ``sha256sum`` prints for
        its weights and settings, in the order of their names; of a hub name, ``NAME@COMMIT``.

    Raises:
        VistuneError: there are no weights, or the hub does not tell the commit.
    """
    place = parts.resolve(str(name))
    if isinstance(place, str):
        return f"{place}@{_commit(place)}"
    total = hashlib.sha256()
    for path in _files(place):
        total.update(f"{_hash_of(path)}  {path.name}\n".encode())
    if (place / CONFIG).is_file() and (place / METADATA).is_file():  # adapters: with what they are for
        config = {**json.loads((place / CONFIG).read_text(encoding="utf-8")), "base_model_name_or_path": ""}
        total.update(json.dumps(config, sort_keys=True).encode())
        total.update(fingerprint(base_of(place, read_metadata(place))).encode())
    return f"sha256:{total.hexdigest()}"


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file of any size.

    Raises:
        OSError: it cannot be read.
    """
    content = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            content.update(chunk)
    return content.hexdigest()


def _files(folder: Path) -> list[Path]:
    weights, settings = (_matching(folder, patterns) for patterns in (_WEIGHTS, _SETTINGS))
    if not weights:
        raise VistuneError(f"{folder}: no weights ({' or '.join(_WEIGHTS)}). Pass a checkpoint's folder.")
    return sorted(weights | settings, key=lambda path: path.name)


def _matching(folder: Path, patterns: tuple[str, ...]) -> set[Path]:
    found = {path for pattern in patterns for path in folder.glob(pattern)}
    return {path for path in found if path.is_file() and not any(path.match(never) for never in _NEVER)}


def _hash_of(path: Path) -> str:
    try:
        return hash_file(path)
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read: {error}") from error


def _commit(name: str) -> str:
    commit = getattr(parts.read_config(name), "_commit_hash", None)
    if not commit:
        raise VistuneError(f"{name}: its commit is not known. Pass a folder, or a name on the hub.")
    return str(commit)
