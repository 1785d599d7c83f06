"""What tokens cost."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from math import inf
from pathlib import Path

import yaml

from vistune.errors import VistuneError
from vistune.llm.request import Usage

_EXPECTED = "expected `models: {NAME: {prompt: P, completion: C}}`, dollars per million tokens"


@dataclass(frozen=True)
class Price:
    """Dollars per million tokens."""

    prompt: float
    completion: float

    def of(self, usage: Usage) -> float:
        return (usage.prompt * self.prompt + usage.completion * self.completion) / 1e6


def find_price(model: str, table: Path | None, batch: bool = False) -> Price | None:
    """The price of ``model`` in a table (None: the one shipped), or None where it has none.

    Raises:
        VistuneError: the table cannot be read.
    """
    source = table or resources.files("vistune.llm").joinpath("prices.yaml")
    try:
        content = yaml.safe_load(source.read_text(encoding="utf-8"))
        row = content["models"].get(model)
        discount = float(content.get("batch_discount", 0.5)) if batch else 1.0
        price = Price(float(row["prompt"]) * discount, float(row["completion"]) * discount) if row else None
        if price and not (0 <= price.prompt < inf and 0 <= price.completion < inf):
            raise ValueError(f"no price for {model}: {row}")
        return price
    except OSError as error:
        raise VistuneError(f"{table}: cannot be read ({error.strerror}).") from error
    except (yaml.YAMLError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise VistuneError(f"{table}: not a price table ({error}); {_EXPECTED}.") from error
