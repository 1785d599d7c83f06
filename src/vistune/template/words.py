"""Text -> ids, so that texts encoded one by one are the ids of the whole, and no text is a special token.

SentencePiece tokenizers put a space before a text, and some before whatever follows a special token. A text
cut in two, where an answer begins, must get none. So each text is encoded behind an *anchor*, a character
that no tokenizer merges with its neighbours, whose ids are then dropped; where the tokenizer itself would put
a space, it is written out. The ids of an answer decode, behind those of its prompt, to exactly its text.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from vistune.errors import VistuneError
from vistune.template.begin import find_begin

_ANCHORS = ("\x01", "\n", "|")
_REMEMBERED = 4096  # texts; among them the template's own, and questions that come again and again


class Words:
    """One tokenizer's way to write text.

    Args:
        tokenizer: any tokenizer of transformers.
        image_token: id of the token that holds a picture's place.
        own: the template's texts; the added tokens in them are never read in anyone else's words.

    Attributes:
        begin: what stands before every text (BOS), as text; empty if nothing does.

    Raises:
        VistuneError: the tokenizer puts something before a text that is not a space.
    """

    def __init__(self, tokenizer: Any, image_token: int, own: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        # The length check counts with a plain tokenizer, which tells no special tokens.
        self._added = dict(getattr(tokenizer, "added_tokens_decoder", {}))
        self._ids_of = {str(token.content): id for id, token in self._added.items()}
        self._added_pattern = _any_of(self._ids_of)
        self._never = self._find_never(image_token, own)
        self._snares = _any_of(self._added[id].content for id in self._never if id in self._added)
        self._known: dict[str, list[int]] = {}
        self._lock = threading.Lock()
        self.begin = find_begin(tokenizer)
        self._anchor, self._dropped, space_first = self._find_anchor()
        self._space_after = {
            None: space_first,
            "text": False,
            "special": self._space_after_special(space_first),
        }

    def split(self, text: str) -> list[str | int]:
        """The template's own text as plain texts and ids of the added tokens that it holds."""
        if self._added_pattern is None:
            return [text] if text else []
        atoms: list[str | int] = []
        for number, piece in enumerate(self._added_pattern.split(text)):
            if number % 2:
                token = self._ids_of[piece]
                if self._added[token].lstrip and atoms and isinstance(last := atoms[-1], str):
                    atoms[-1:] = [kept] if (kept := last.rstrip()) else []
                atoms.append(token)
            elif piece := self.after(atoms[-1] if atoms else None, piece):
                atoms.append(piece)
        return atoms

    def after(self, previous: str | int | None, text: str) -> str:
        """The template's ``text`` as it is read after ``previous``: some tokens swallow white space."""
        swallows = isinstance(previous, int) and previous in self._added and self._added[previous].rstrip
        return text.lstrip() if swallows else text

    def space(self, previous: str | int | None) -> str:
        """What this tokenizer writes before a text that follows other text, a special id, or nothing."""
        kind = None if previous is None else "text" if isinstance(previous, str) else "special"
        return " " if self._space_after[kind] else ""

    def encode(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Ids of each different text, as if other text came before it; nothing in it is a special token.

        One call of the tokenizer for all of them: fast tokenizers work on them in parallel.
        """
        with self._lock:
            return self._encode(dict.fromkeys(texts))

    def _encode(self, wanted: dict[str, None]) -> dict[str, list[int]]:
        fresh = [text for text in wanted if text not in self._known]
        found = dict(zip(fresh, self._safe(fresh), strict=True))
        ids = {text: found[text] if text in found else self._known[text] for text in wanted}
        if len(self._known) > _REMEMBERED:
            self._known = {}
        self._known.update(found)
        return ids

    def _safe(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._joined(texts)
        for number, ids in enumerate(encoded):
            if not self._never.isdisjoint(ids):
                encoded[number] = self._spelled(texts[number])
        return encoded

    def _spelled(self, text: str) -> list[int]:
        """A text that this tokenizer would read a special token in: that one is written letter by letter."""
        pieces = self._snares.split(text) if self._snares else [text]
        letters = chain.from_iterable(piece if n % 2 else [piece] for n, piece in enumerate(pieces))
        ids = list(chain.from_iterable(self._joined([piece for piece in letters if piece])))
        if found := self._never.intersection(ids):
            raise VistuneError(
                f"{text[:80]!r}: the tokenizer reads the special token {found.pop()} in plain text. "
                "Choose another LLM, or remove the text."
            )
        return ids

    def _joined(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self._raw([self._anchor + text for text in texts])
        return [ids[self._dropped :] for ids in encoded] if self._anchor else encoded

    def _raw(self, texts: Sequence[str], special: bool = False) -> list[list[int]]:
        """Ids as the tokenizer itself makes them. special: added tokens in the texts are meant."""
        if not (texts and getattr(self._tokenizer, "is_fast", False)):
            options = {"add_special_tokens": False, "split_special_tokens": not special}
            return [self._tokenizer.encode(text, **options) for text in texts]
        backend = self._tokenizer.backend_tokenizer
        backend.encode_special_tokens = not special
        backend.no_truncation()
        backend.no_padding()
        return [found.ids for found in backend.encode_batch_fast(texts, add_special_tokens=False)]

    def _find_never(self, image_token: int, own: Iterable[str]) -> set[int]:
        """Ids that no one's words may become."""
        if not self._added:
            return set()
        meant = {id for id, token in self._added.items() if token.special}
        meant -= {getattr(self._tokenizer, "unk_token_id", None)}  # what an unknown letter is written as
        meant |= {id for text in own for id in self.split(text) if isinstance(id, int)}
        return meant | {image_token, self._tokenizer.eos_token_id} - {None}

    def _find_anchor(self) -> tuple[str, int, bool]:
        """The anchor, how many ids it takes, and whether a text begins with a space of the tokenizer's."""
        (plain,) = self._raw(["x"])
        for anchor in _ANCHORS:
            alone, joined, spaced = self._raw([anchor, f"{anchor}x", f"{anchor} x"])
            if not alone or joined[: len(alone)] != alone or spaced[: len(alone)] != alone:
                continue
            if joined[len(alone) :] == plain:
                return "", 0, False
            if spaced[len(alone) :] == plain:
                return anchor, len(alone), True
        raise VistuneError(
            "The tokenizer puts something unknown before a text, so that texts cannot be joined exactly. "
            "Choose another LLM."
        )

    def _space_after_special(self, space_first: bool) -> bool:
        special = next((token.content for token in self._added.values() if token.special), None)
        if special is None or not space_first:
            return space_first
        (ids,) = self._raw([f"{special}x"], special=True)
        return ids[1:] == self._joined([" x"])[0]


def _any_of(texts: Iterable[str]) -> re.Pattern[str] | None:
    """Finds any of the texts, the longest first."""
    ordered = sorted(filter(None, texts), key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, ordered))})") if ordered else None
