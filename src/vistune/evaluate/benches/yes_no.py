"""Yes or no, read out of an answer in words."""

from __future__ import annotations

import re

_SENTENCE = re.compile(r"[^.!?\n]*[^\W\d_][^.!?\n]*")  # the first that has a letter
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def read_yes_no(answer: str) -> str | None:
    """``yes`` or ``no``, as the answer's first sentence says; None where it says neither.

    *no*, *not* or a word in *n't* anywhere in the sentence means no; else *yes* means yes. POPE's own rule
    is the same, but takes whatever has no such word for a yes, an empty answer too, and knows no *n't*, no
    capitals but *No*, and no end of a sentence but a full stop.
    """
    sentence = _SENTENCE.search(answer)
    words = _WORD.findall(sentence[0].lower()) if sentence else []
    if any(word in ("no", "not") or word.endswith(("n't", "n’t")) for word in words):
        return "no"
    return "yes" if "yes" in words else None
