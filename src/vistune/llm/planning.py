"""Requests that are noted instead of made: for an estimate, and for batches."""

from __future__ import annotations

from vistune.llm.ledger import Ledger
from vistune.llm.request import ChatReply, ChatRequest


class PendingError(Exception):
    """The reply is not there yet."""


class Planner:
    """Replies from the ledger alone; what it lacks is noted in ``pending``."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.pending: dict[str, ChatRequest] = {}

    async def ask(self, request: ChatRequest) -> ChatReply:
        """Raises PendingError where the reply is not in the ledger."""
        if (reply := self._ledger.reply(request.key)) is None:
            self.pending[request.key] = request
            raise PendingError(request.key)
        return reply

    async def close(self) -> None:
        """Nothing is open."""
