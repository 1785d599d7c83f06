"""``evaluation.json``: how a folder's reviews were made."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vistune import __version__
from vistune.evaluate.judge.options import JudgeOptions
from vistune.evaluate.judge.request import JudgePrompt
from vistune.evaluate.sheet import SETTINGS
from vistune.folders import claim


def begin(options: JudgeOptions, sent: Mapping[str, Any], prompt: JudgePrompt) -> None:
    """Make ``options.out`` the folder of these reviews, or find that it is already.

    Raises:
        VistuneError: it holds others, or something else.
    """
    claim(options.out, SETTINGS, _settings(options, sent, prompt))


def forget(out: Path) -> None:
    """Nothing was said at all: the folder stays free for other settings."""
    if [path.name for path in out.iterdir()] == [SETTINGS]:
        (out / SETTINGS).unlink()


def _settings(options: JudgeOptions, sent: Mapping[str, Any], prompt: JudgePrompt) -> dict[str, Any]:
    """What makes reviews what they are; more runs may join them later."""
    files = {name: getattr(options, name) for name in ("data", "context", "references", "answers")}
    return {
        "bench": options.bench,
        "judge": options.model,
        "parameters": dict(sent),
        "attempts": options.attempts,
        "prompt": prompt.digest,
        "files": {name: str(path.resolve()) for name, path in files.items()},
        "sha256": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
        "answers_made": _made(options.answers),
        "vistune": __version__,
    }


def _made(answers: Path) -> dict[str, Any]:
    beside = answers.with_name(SETTINGS)
    content: dict[str, Any] = json.loads(beside.read_text(encoding="utf-8")) if beside.is_file() else {}
    return content
