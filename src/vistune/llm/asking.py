"""Many requests to one LLM at once: what a judge, an ensemble, or a text-only baseline needs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from vistune.errors import Problem, VistuneError
from vistune.llm.budget import Budget
from vistune.llm.client import LlmClient, RequestFailedError
from vistune.llm.ledger import Ledger, default_ledger
from vistune.llm.options import AskOptions
from vistune.llm.prices import Price
from vistune.llm.request import ChatReply, ChatRequest, Role
from vistune.parallel import in_parallel, run_interruptibly
from vistune.progress import meter

NO_REPLY = "no reply"  # the next run asks again

Again = Callable[[str, ChatReply, int], ChatRequest | None]


@dataclass(frozen=True)
class Asked:
    """What came of many requests.

    Attributes:
        replies: by the requests' names, in the requests' order.
        problems: requests that failed for good; the next run asks them again.
        spent: what this run cost, as it is told.
        stopped: why not all was asked; what was answered is kept.
    """

    replies: dict[str, ChatReply]
    problems: list[Problem]
    spent: str
    stopped: VistuneError | None


def ask_all(
    requests: Mapping[str, ChatRequest], options: AskOptions, task: str, again: Again | None = None
) -> Asked:
    """Ask everything, ``options.in_flight`` at a time; what the ledger holds is not asked.

    Args:
        task: shown beside the progress.
        again: given a request's name, its reply and the number of replies to it so far: another request to
            make in its place, where the reply cannot be used; None where it can, or enough were asked.

    Raises:
        VistuneError: nothing can be asked (no key, no price for ``max_cost``, the ledger is in use).
    """
    price = options.price()
    with Ledger(options.ledger or default_ledger()) as ledger:
        client = LlmClient(options.endpoint(), ledger, Budget(price, options.max_cost))
        work = _Work(client, requests, again)
        run_interruptibly(work.run(task, options.in_flight))
    replies = {name: work.replies[name] for name in requests if name in work.replies}
    problems = [work.problems[name] for name in requests if name in work.problems]
    return Asked(replies, problems, told(client.budget, price), work.stopped)


class _Work:
    """Replies as they come."""

    def __init__(self, client: LlmClient, requests: Mapping[str, ChatRequest], again: Again | None) -> None:
        self._client, self._requests, self._again = client, requests, again
        self.replies: dict[str, ChatReply] = {}
        self.problems: dict[str, Problem] = {}
        self.stopped: VistuneError | None = None

    async def run(self, task: str, in_flight: int) -> None:
        with meter(task, len(self._requests)) as progress:

            async def ask(name: str) -> None:
                await self._ask(name)
                progress.advance(f"{len(self.problems)} failed" if self.problems else "")

            try:
                # A few more than fit into flight, so that a reply that is read leaves no gap.
                await in_parallel(self._requests, ask, in_flight + in_flight // 4 + 1)
            finally:
                await self._client.close()

    async def _ask(self, name: str) -> None:
        """A run that has stopped goes on here with what the ledger holds; its client asks no more."""
        try:
            reply, asked = await self._client.ask(self._requests[name]), 1
            while self._again and (other := self._again(name, reply, asked)):
                reply, asked = await self._client.ask(other), asked + 1
            self.replies[name] = reply
        except RequestFailedError as error:
            self.problems[name] = Problem(name, NO_REPLY, str(error))
        except VistuneError as error:
            self.stopped = self.stopped or error


def told(budget: Budget, price: Price | None) -> str:
    """What a run cost, as its last line tells it."""
    return (
        f"spent: ${budget.spent:.4f}" if price else "spent: unknown (no price for this model; see --prices)"
    )


def seeded(
    model: str, messages: tuple[tuple[Role, str], ...], parameters: Mapping[str, Any], name: str
) -> ChatRequest:
    """A request whose seed comes from ``name``: another name is another request, for endpoint and ledger.

    Where ``parameters`` hold a ``seed`` of None, none is sent, and the ledger alone tells them apart.
    """
    seed = zlib.crc32(name.encode()) & 0x7FFFFFFF
    if "seed" not in parameters:
        return ChatRequest(model, messages, {"seed": seed, **parameters})
    unseeded = {key: value for key, value in parameters.items() if key != "seed"}
    return ChatRequest(model, messages, unseeded, note=str(seed))


def parameters(given: list[str] | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """``NAME=VALUE`` pairs over the defaults; a value is read as YAML, ``null`` leaves the parameter out.

    ``seed`` is our own for each request; ``seed=null`` is kept, and says that none is to be sent.

    Raises:
        VistuneError: a pair is no pair, or names what has an option of its own.
    """
    found: dict[str, Any] = dict(defaults)
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not (name and equals) or name in ("model", "messages", "stream", "n"):
            raise VistuneError(
                f"--param {pair!r}: expected NAME=VALUE of a parameter that is free to choose."
            )
        try:
            found[name] = yaml.safe_load(value)
            json.dumps(found[name], allow_nan=False)
        except (yaml.YAMLError, TypeError, ValueError) as error:
            raise VistuneError(f"--param {pair!r}: the value cannot be sent as JSON ({error}).") from error
    if found.get("seed") is not None:
        raise VistuneError("--param seed: every request gets its own; `seed=null` sends none.")
    for name in ("max_tokens", "max_completion_tokens"):
        if not isinstance(found.get(name), int | None):
            raise VistuneError(f"--param {name}: expected a number of tokens, found {found[name]!r}.")
    return {name: value for name, value in found.items() if value is not None or name == "seed"}
