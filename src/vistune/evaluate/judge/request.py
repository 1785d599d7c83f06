"""How a judge is asked: context, question, two answers and the rule, in that order."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vistune.errors import VistuneError
from vistune.prompts import Messages

DEFAULT_PARAMETERS = {"temperature": 0.2, "max_tokens": 1024}
_HEADINGS = ("context", "question", "first", "second", "rule")


@dataclass(frozen=True)
class JudgePrompt:
    """The words around what is judged.

    Attributes:
        headings: of the five blocks.
        rules: by a question's category.
        form: how the reply must look; stands at the end of every rule.
        digest: SHA-256 of the file, kept with every review.
    """

    system: str
    headings: Mapping[str, str]
    rules: Mapping[str, str]
    form: str
    digest: str

    def messages(self, kind: str, context: str, question: str, first: str, second: str) -> Messages:
        """What is sent; ``first`` and ``second`` are the answers of assistants 1 and 2."""
        texts = (context, question, first, second, f"{self.rules[kind]}\n\n{self.form}")
        blocks = [
            f"{self.headings[name]}\n{text.strip()}" for name, text in zip(_HEADINGS, texts, strict=True)
        ]
        return (("system", self.system), ("user", "\n\n".join(blocks)))


def load_judge_prompt(path: Path | None, kinds: tuple[str, ...]) -> JudgePrompt:
    """Read a prompt file (None: the one shipped).

    Raises:
        VistuneError: it cannot be read, or lacks a field or the rule for one of ``kinds``.
    """
    source = path or resources.files("vistune.prompts").joinpath("judge", "llava_bench.yaml")
    try:
        data = source.read_bytes()
        content: dict[str, Any] = yaml.safe_load(data)
        return JudgePrompt(
            system=content["system"].strip(),
            headings={name: content["headings"][name].strip() for name in _HEADINGS},
            rules={kind: content["rules"][kind].strip() for kind in kinds},
            form=content["form"].strip(),
            digest=hashlib.sha256(data).hexdigest(),
        )
    except OSError as error:
        raise VistuneError(f"{source}: cannot be read ({error.strerror}). Check --prompt.") from error
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise VistuneError(
            f"{source}: expected texts `system` and `form`, `headings` ({', '.join(_HEADINGS)}) and "
            f"`rules` ({', '.join(kinds)}); {type(error).__name__}: {error}."
        ) from error
