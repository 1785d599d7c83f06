"""Drawing the next token, instead of taking the likeliest."""

from __future__ import annotations

import torch
from torch import Tensor


class Sampler:
    """Draws from the smallest set of likeliest tokens whose probabilities reach ``top_p``.

    Draws are made on the CPU with a generator of their own, so that a seed gives one answer whatever else is
    decoded beside it.

    Args:
        temperature: above 0; 1 leaves the model's probabilities as they are.
        seed: fixes all draws; None draws anew each time.
    """

    def __init__(self, temperature: float, top_p: float = 1.0, seed: int | None = None) -> None:
        if temperature <= 0 or not 0 < top_p <= 1:
            raise ValueError(f"temperature {temperature}, top_p {top_p}: expected above 0, and 0 to 1")
        self._temperature, self._top_p = temperature, top_p
        self._generator = torch.Generator()
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed)

    def __call__(self, logits: Tensor) -> int:
        """A token by ``logits`` [V]."""
        shares = (logits.float().cpu() / self._temperature).softmax(-1)
        if self._top_p < 1:
            ordered, tokens = shares.sort(descending=True)
            before = ordered.cumsum(-1) - ordered  # of the likelier ones; the likeliest always stays
            ordered[before >= self._top_p] = 0
            return int(tokens[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(shares, 1, generator=self._generator))
