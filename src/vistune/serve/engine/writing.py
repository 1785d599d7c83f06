"""An answer's ids -> its words, piece by piece, up to a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_BROKEN = "\ufffd"  # a character of which only some bytes are there


class Writer:
    """The words of one answer as they become certain.

    Held back are half characters, white space that may be the last, and what may be the beginning of a stop
    string. All pieces together are the whole answer without outer white space.

    Args:
        stops: the answer ends before the first of these.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str] = ()) -> None:
        self._tokenizer, self._stops = tokenizer, [stop for stop in stops if stop]
        self._sent = 0
        self.stopped = False

    def write(self, ids: Sequence[int], last: bool = False) -> str:
        """What is new and certain.

        Args:
            ids: all of the answer so far, without its STOP.
            last: nothing follows.
        """
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True).lstrip()
        ends = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped, text = True, text[: min(ends)]
        certain = text.rstrip() if ends or last else self._certain(text)
        piece = certain[self._sent :]
        self._sent = max(self._sent, len(certain))
        return piece

    def _certain(self, text: str) -> str:
        text = text.rstrip(_BROKEN)
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        return text[: len(text) - held].rstrip()


def _overlap(text: str, stop: str) -> int:
    """How much of the beginning of ``stop`` the text ends with."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
