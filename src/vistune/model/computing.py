"""How an LLM may be computed without learning, or answering, something else than transformers does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from vistune.data.pack import Rows


@dataclass(frozen=True)
class Computing:
    """What :mod:`vistune.model.probe` found.

    Attributes:
        rows: how dialogues are trained on. ``packed``: many in a row, pictures shared. ``padded``: each by
            itself in a batch, padded at its end, with transformers' own masks. ``single``: one at a time.
        decodes: ``shared``: our decoder, beginnings read once. ``alone``: each answer by transformers' cache.
        why_rows, why_decodes: why not ``packed``, and why not ``shared``.
    """

    rows: Rows = "packed"
    decodes: Literal["shared", "alone"] = "shared"
    why_rows: str = ""
    why_decodes: str = ""

    @property
    def packs(self) -> bool:
        return self.rows == "packed"

    def lines(self) -> Iterator[str]:
        """What a user should know; nothing if everything is as usual."""
        if not self.packs:
            how = "padded batches" if self.rows == "padded" else "batches of one dialogue"
            yield f"packing is off: {self.why_rows}; each dialogue is computed alone, in {how}"
        if self.decodes == "alone":
            yield f"answers are written one by one with transformers' cache: {self.why_decodes}"


PACKED = Computing()
