"""The circuit breaker: stop when the endpoint is plainly down, instead of burning retries."""

from __future__ import annotations

import time

from vistune.llm.faults import EndpointError

_FEWEST = 8  # failures in a row before anything is concluded


class Breaker:
    """Counts failures since the last success.

    Args:
        name: of the endpoint, for the message.
        patience: seconds without a success after which the endpoint counts as down; an endpoint that never
            answered gets a tenth of it, and one that is up but wants less (429) gets ten times as much.
    """

    def __init__(self, name: str, patience: float) -> None:
        self._name, self._patience = name, patience
        self._ever_answered = False
        self._failures: dict[bool, tuple[int, float]] = {}  # is it alive? -> how often in a row, since when
        self._refusals = 0

    def success(self) -> None:
        self._ever_answered = True
        self._failures.clear()

    def failure(self, what: str, alive: bool = False) -> None:
        """Raises EndpointError where it was one too many."""
        count, first = self._failures.get(alive, (0, time.monotonic()))
        self._failures[alive] = count, first = count + 1, first
        silent = time.monotonic() - first
        patience = self._patience * (1 if self._ever_answered else 0.1) * (10 if alive else 1)
        if count >= _FEWEST and silent >= patience:
            raise EndpointError(
                f"{self._name}: {count} failures in a row over {silent:.0f} s; the last: {what}. "
                "Check that it is up, that --base-url is its API's (it often ends in /v1) and that it knows "
                "--model; then run the same command again: all that was answered is kept."
            )

    def refusal(self, what: str) -> None:
        """A request refused for what it holds; where all are, the settings are at fault."""
        self._refusals += 1
        if self._refusals >= _FEWEST and not self._ever_answered:
            raise EndpointError(
                f"{self._name}: refused the first {self._refusals} requests; the last: {what}. "
                "Check --model and --param."
            )
