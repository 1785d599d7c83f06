"""How long a conversation is once each picture has become its patches; without work where that is clear."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from vistune.conversation import Conversation
from vistune.data.images import Flaw
from vistune.errors import VistuneError
from vistune.template import Renderer, Template, find_template

STARTER = "starter"  # the embedded tokenizer
_CHARACTERS_A_TOKEN = 4  # in English, with the tokenizers of common LLMs


class LengthCheck:
    """Finds conversations that are longer than ``max_length`` tokens.

    Args:
        tokenizer: a folder with ``tokenizer.json``, a name on the Hugging Face Hub, ``starter``, or None to
            estimate four characters a token.
        template: name of the template that the conversation is written with.
        image_tokens: positions that one picture takes.

    Raises:
        VistuneError: there is no such template or tokenizer.
    """

    def __init__(self, tokenizer: str | None, template: str, image_tokens: int, max_length: int) -> None:
        loaded = None if tokenizer is None else _load(tokenizer)
        self._template, self._patches, self._most = find_template(template, loaded), image_tokens, max_length
        self._renderer = None
        if loaded is not None:
            self._renderer = Renderer(self._template, loaded, image_token=-1, patches=image_tokens)

    @property
    def exact(self) -> bool:
        return self._renderer is not None

    def flaw_of(self, conversation: Conversation) -> Flaw | None:
        """Why the conversation is too long, or None."""
        texts = [turn.text for turn in conversation.turns]
        characters = sum(map(len, texts)) + _overhead(self._template, len(texts))
        patches = len(conversation.pictures) * self._patches
        if self._renderer is None:
            estimate = characters // _CHARACTERS_A_TOKEN + patches
            if estimate <= self._most:
                return None
            return Flaw(
                "probably longer than max_length",
                f"about {estimate} > {self._most} tokens, estimated; --tokenizer tells exactly",
            )
        if all(map(str.isascii, texts)) and characters + patches <= self._most:
            return None  # every token stands for a character at least
        length = len(self._renderer.encode(conversation).ids)
        if length <= self._most:
            return None
        return Flaw("longer than max_length", f"{length} > {self._most} tokens, {patches} of them pictures")


def _overhead(template: Template, turns: int) -> int:
    """Tokens that a template adds at most: a token for each character, a STOP, and one where a tokenizer puts
    a space before words."""
    pair = sum(map(len, template.texts)) + 4
    return len(template.system) + pair * (turns // 2) + turns


class _Ids:
    """A tokenizer of the tokenizers library, as :class:`Renderer` calls one.

    Args:
        settings: of its ``tokenizer_config.json``, where an export says what its texts begin with.
    """

    eos_token_id = 0  # only the count matters here

    def __init__(self, tokenizer: Any, settings: Mapping[str, Any] | None = None) -> None:
        self._tokenizer, self.init_kwargs = tokenizer, settings or {}
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()

    @property
    def added_tokens_decoder(self) -> Any:
        return self._tokenizer.get_added_tokens_decoder()

    def encode(self, text: str, add_special_tokens: bool, split_special_tokens: bool) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        return ids


def _load(name: str) -> _Ids:
    from tokenizers import Tokenizer

    folder = resources.files("vistune").joinpath("model/starter/llm") if name == STARTER else Path(name)
    path = Path(str(folder)) / "tokenizer.json"
    if path.exists():
        return _Ids(Tokenizer.from_file(str(path)), _settings(path.with_name("tokenizer_config.json")))
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(name)
        return _Ids(loaded.backend_tokenizer, loaded.init_kwargs)
    except (OSError, ValueError, AttributeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise VistuneError(
            f"Tokenizer {name!r} cannot be loaded: {first} "
            f"Pass a folder with tokenizer.json, a name on the Hugging Face Hub, or `{STARTER}`."
        ) from error


def _settings(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise VistuneError(
            f"{path}: cannot be read ({error}). Use the files that were saved together."
        ) from error
    if not isinstance(settings, dict):
        raise VistuneError(f"{path}: expected an object, found {type(settings).__name__}.")
    return settings
