"""A limit on what a run may cost."""

from __future__ import annotations

import asyncio

from vistune.errors import VistuneError
from vistune.llm.prices import Price
from vistune.llm.request import ChatRequest, Usage

CHARACTERS_PER_TOKEN = 4  # of English, about
_LONGEST_REPLY = 1024  # tokens, where a request sets no limit


class BudgetReachedError(VistuneError):
    """The next request could cost more than is left."""


class Budget:
    """Lets requests through as long as all of them together stay below ``most``.

    A request in flight holds back the most that it can cost.
    """

    def __init__(self, price: Price | None, most: float | None) -> None:
        self._price, self._most = price, most
        self.spent, self._held, self._flying = 0.0, 0.0, 0
        self._settled = asyncio.Condition()

    async def hold(self, request: ChatRequest) -> float:
        """Wait until the request fits; returns what :meth:`settle` gives back.

        Raises:
            BudgetReachedError: nothing is in flight, and it still does not fit.
        """
        if self._price is None or self._most is None:
            return 0.0
        worst = self._price.of(worst_usage(request))
        async with self._settled:
            while self.spent + self._held + worst > self._most:
                if not self._flying:
                    raise BudgetReachedError(
                        f"stopped at ${self.spent:.2f}: the next request could pass --max-cost "
                        f"{self._most:g}. Run the same command with a higher one to go on."
                    )
                await self._settled.wait()
            self._held, self._flying = self._held + worst, self._flying + 1
        return worst

    def cost(self, request: ChatRequest, usage: Usage) -> float | None:
        """What a reply cost: the most that it can have, where the endpoint tells no usage; None: no price."""
        if self._price is None:
            return None
        return self._price.of(usage if usage.prompt else worst_usage(request))

    async def settle(self, held: float, cost: float | None) -> None:
        """Give back what was held, and count what it cost."""
        self.spent += cost or 0.0
        if self._most is not None and self._price is not None:
            async with self._settled:
                self._held, self._flying = self._held - held, self._flying - 1
                self._settled.notify_all()


def worst_usage(request: ChatRequest) -> Usage:
    """The most tokens that a request can cost, about."""
    limit = request.parameters.get("max_tokens") or request.parameters.get("max_completion_tokens")
    return Usage(estimated_tokens(request.characters), int(limit or _LONGEST_REPLY))


def estimated_tokens(characters: int) -> int:
    return -(-characters // CHARACTERS_PER_TOKEN)
