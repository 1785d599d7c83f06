"""Which LLM is asked, and how hard. Light: nothing of the network is imported before something is asked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from vistune.errors import VistuneError
from vistune.llm.prices import Price, find_price

if TYPE_CHECKING:
    from vistune.llm.client import Endpoint


class AskOptions(BaseModel):
    """Which LLM is asked, and how hard; by the names of the commands' options."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    base_url: str | None = None
    param: list[str] | None = None
    in_flight: int = Field(default=16, ge=1)
    timeout: float = Field(default=120.0, gt=0)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    patience: float = Field(default=60.0, ge=0)
    ledger: Path | None = None
    prices: Path | None = None
    max_cost: float | None = None

    def endpoint(self) -> Endpoint:
        from vistune.llm.client import Endpoint

        return Endpoint(
            self.base_url,
            self.in_flight,
            self.timeout,
            patience=self.patience,
            requests_per_minute=self.requests_per_minute,
            tokens_per_minute=self.tokens_per_minute,
        )

    def price(self) -> Price | None:
        """Raises VistuneError where ``max_cost`` needs a price and none is known."""
        price = find_price(self.model, self.prices)
        if self.max_cost is not None and price is None:
            raise VistuneError(
                f"--max-cost: no price is known for {self.model}. Give one with --prices FILE."
            )
        return price


def asked_for(given: Mapping[str, Any]) -> AskOptions | None:
    """The options of a command whose LLM is optional; None where it names none.

    Raises:
        VistuneError: another option is given, which would be ignored.
    """
    if given.get("model") is not None:
        return AskOptions(**given)
    default = AskOptions(model="")
    ignored = [name for name, value in given.items() if name != "model" and value != getattr(default, name)]
    if ignored:
        raise VistuneError(f"--{ignored[0].replace('_', '-')} is for an LLM: give --model, or leave it out.")
    return None
