"""What a run would ask, and what that would cost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from vistune.data.generation.plan import GenerationSettings, Plan
from vistune.data.generation.sample import make_sample
from vistune.data.teachers.prompted import PromptedTeacher
from vistune.data.teachers.teacher import SampleType
from vistune.llm.budget import CHARACTERS_PER_TOKEN, estimated_tokens
from vistune.llm.planning import PendingError, Planner
from vistune.llm.prices import Price
from vistune.llm.request import Usage


@dataclass(frozen=True)
class Estimate:
    """Requests to make.

    Attributes:
        requests: of each type.
        paid: samples whose replies are in the ledger.
    """

    requests: Mapping[SampleType, int]
    paid: int
    usage: Usage

    def lines(self, model: str, price: Price | None) -> Iterator[str]:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.requests.items())
        yield f"requests to {model}: {sum(self.requests.values())} ({kinds}); {self.paid} paid before"
        yield (
            f"tokens: about {self.usage.prompt:,} of prompts and {self.usage.completion:,} of replies "
            f"({CHARACTERS_PER_TOKEN} characters a token; replies as long as the examples; none rejected)"
        )
        if price is None:
            yield "cost: unknown; give a price table with --prices"
        else:
            yield (
                f"cost: about ${price.of(self.usage):.2f} at ${price.prompt:g} and ${price.completion:g} "
                f"per million tokens; with --batch half of it, where the endpoint grants that"
            )


def estimate(
    plans: Mapping[SampleType, Plan],
    teacher: PromptedTeacher,
    planner: Planner,
    settings: GenerationSettings,
) -> Estimate:
    """Go through the plan without asking anybody.

    Where reasoning is to see what was written before, its prompts are counted without that.
    """
    return asyncio.run(_estimate(plans, teacher, planner, settings))


async def _estimate(
    plans: Mapping[SampleType, Plan],
    teacher: PromptedTeacher,
    planner: Planner,
    settings: GenerationSettings,
) -> Estimate:
    requests: dict[SampleType, int] = {}
    paid, prompt, completion = 0, 0, 0
    for kind, plan in plans.items():
        requests[kind] = 0
        for planned in plan.candidates[: plan.wanted]:
            try:
                await make_sample(planned, teacher, settings)
                paid += 1
            except PendingError as pending:
                requests[kind] += 1
                prompt += estimated_tokens(planner.pending[str(pending)].characters)
                completion += estimated_tokens(teacher.example_characters(kind))
    return Estimate(requests, paid, Usage(prompt, completion))
