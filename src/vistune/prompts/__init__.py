"""What is said to people and to LLMs, as data files: question lists, and how a teacher is asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vistune.errors import VistuneError
from vistune.llm.request import Role

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable  # of Python 3.11 on

Messages = tuple[tuple[Role, str], ...]


@dataclass(frozen=True)
class Prompt:
    """How a teacher is asked for one type of text (paper Table 13).

    Attributes:
        examples: (context, ideal reply), shown before the question.
        digest: SHA-256 of the file, kept with all that it led to.
    """

    system: str
    examples: tuple[tuple[str, str], ...]
    digest: str

    def messages(self, context: str) -> Messages:
        """System message, examples, and last the picture that is asked about."""
        shown: list[tuple[Role, str]] = [("system", self.system)]
        for example, reply in self.examples:
            shown += [("user", example), ("assistant", reply)]
        return (*shown, ("user", context))


def load_prompt(name: str, folder: Path | None = None) -> Prompt:
    """The prompt ``NAME.yaml`` of a folder (None: the one shipped).

    Raises:
        VistuneError: the file cannot be read, or lacks its fields.
    """
    path = (folder or _shipped("teacher")) / f"{name}.yaml"
    try:
        data = path.read_bytes()
        content: dict[str, Any] = yaml.safe_load(data)
        examples = tuple((row["context"].strip(), row["reply"].strip()) for row in content["examples"])
        return Prompt(content["system"].strip(), examples, _sha256(data))
    except OSError as error:
        raise VistuneError(f"{path}: cannot be read ({error.strerror}). Check --prompts.") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise VistuneError(
            f"{path}: expected `system: TEXT` and `examples: [{{context: TEXT, reply: TEXT}}]` ({error})."
        ) from error


@cache
def question_list(name: str) -> tuple[str, ...]:
    """The questions of ``{name}_questions.txt``: ``brief`` (paper Table 11) or ``detail`` (Table 12)."""
    lines = _shipped(f"{name}_questions.txt").read_text(encoding="utf-8").splitlines()
    return tuple(line for line in lines if line.strip())


def question_list_digest(name: str) -> str:
    """SHA-256 of the list's file."""
    return _sha256(_shipped(f"{name}_questions.txt").read_bytes())


@cache
def unanswerable() -> tuple[dict[str, Any], ...]:
    """Patterns of questions that annotations can hardly answer, and what would make them fair."""
    return tuple(yaml.safe_load(_shipped("unanswerable.yaml").read_text(encoding="utf-8")))


def _shipped(name: str) -> Traversable:
    return resources.files("vistune.prompts").joinpath(name)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
