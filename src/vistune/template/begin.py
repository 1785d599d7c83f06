"""What stands before every text (BOS): found in a tokenizer, or left to the chat template alone.

Other tools either render the chat template and have the tokenizer add what it adds, or render it and have
nothing added. BOS comes once on both ways where the template writes it and the tokenizer adds none.
"""

from __future__ import annotations

import json
import re
from typing import Any

from vistune.errors import VistuneError

STORED = "vistune_begin"  # in tokenizer_config.json; transformers keeps it when it loads and saves


def find_begin(tokenizer: Any) -> str:
    """What its LLM's texts begin with, as text: what ``tokenizer`` adds, or added before it was left out.

    Raises:
        VistuneError: what is stored is not written in added tokens of the tokenizer.
    """
    tokens = getattr(tokenizer, "added_tokens_decoder", {})
    stored = getattr(tokenizer, "init_kwargs", {}).get(STORED)
    if stored is None:
        return "".join(str(tokens[id].content) for id in _added_before(tokenizer) if id in tokens)
    any_token = "|".join(re.escape(str(token.content)) for token in tokens.values())
    if not isinstance(stored, str) or not re.fullmatch(f"(?:{any_token})*", stored):
        raise VistuneError(
            f"tokenizer_config.json: {STORED} is {stored!r}, which is no text of special tokens of this "
            "tokenizer. Use the files that were exported together."
        )
    return stored


def leave_to_template(tokenizer: Any) -> str:
    """Have ``tokenizer`` add nothing before a text; what it adds behind one stays.

    Returns:
        What :func:`find_begin` found, and goes on finding: it is saved with the tokenizer.

    Raises:
        VistuneError: the tokenizer is not a fast one, or adds it in a way of its own.
    """
    begin, before = find_begin(tokenizer), _added_before(tokenizer)
    if before:
        whole = _encode(tokenizer, True)
        if getattr(tokenizer, "is_fast", False):
            _strip(tokenizer.backend_tokenizer)
        if _encode(tokenizer, True) != whole[len(before) :]:
            raise VistuneError(
                f"The tokenizer puts {begin or before!r} before every text by other means than the "
                "TemplateProcessing of a tokenizer.json, so that it cannot be left out. Write its "
                "post_processor as one in the checkpoint's tokenizer.json."
            )
    if begin:
        tokenizer.init_kwargs[STORED] = begin
    return begin


def _added_before(tokenizer: Any) -> list[int]:
    (first, *_), whole = _encode(tokenizer, False), _encode(tokenizer, True)
    return whole[: whole.index(first)]


def _encode(tokenizer: Any, special: bool) -> list[int]:
    ids: list[int] = tokenizer.encode("x", add_special_tokens=special, split_special_tokens=True)
    return ids


def _strip(backend: Any) -> None:
    """Give a tokenizer of the tokenizers library its post-processor without what that adds before a text."""
    from tokenizers import Tokenizer, models

    processor = _stripped(json.loads(backend.to_str())["post_processor"])
    bare = {**json.loads(Tokenizer(models.BPE()).to_str()), "post_processor": processor}
    backend.post_processor = Tokenizer.from_str(json.dumps(bare)).post_processor


def _stripped(processor: dict[str, Any]) -> dict[str, Any]:
    """A post-processor of a ``tokenizer.json``; kinds that add nothing stay as they are."""
    if processor["type"] == "Sequence":
        return {**processor, "processors": [_stripped(inner) for inner in processor["processors"]]}
    if processor["type"] != "TemplateProcessing":
        return processor
    lead = _names(processor["single"])
    lead = lead[: lead.index(None)]
    parts = {name: _without(processor[name], lead) for name in ("single", "pair")}
    used = {name for pieces in parts.values() for name in _names(pieces)}
    tokens = {name: ids for name, ids in processor["special_tokens"].items() if name in used}
    return {**processor, **parts, "special_tokens": tokens}


def _without(pieces: list[dict[str, Any]], lead: list[str | None]) -> list[dict[str, Any]]:
    """``pieces`` without the tokens of ``lead`` where they stand right before a text."""
    kept: list[dict[str, Any]] = []
    for piece in pieces:
        if lead and "Sequence" in piece and _names(kept[-len(lead) :]) == lead:
            del kept[-len(lead) :]
        kept.append(piece)
    return kept


def _names(pieces: list[dict[str, Any]]) -> list[str | None]:
    """The special tokens of ``pieces``; None for a text."""
    return [piece["SpecialToken"]["id"] if "SpecialToken" in piece else None for piece in pieces]
