"""What people think of the answers, sent to the API; only where the operator opted in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vistune.serve.page.talk import Talk

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Vote = Literal["up", "down", "flag", "left", "right", "tie", "neither"]

BETTER: dict[str, Vote] = {
    "◀ Left is better": "left",
    "Right is better ▶": "right",
    "Equally good": "tie",
    "Both are bad": "neither",
}
FEEDBACK: dict[str | bool, Vote] = {True: "up", False: "down", "Flag": "flag"}


async def send_vote(client: AsyncOpenAI, vote: Vote, on: list[tuple[Talk, int]]) -> bool:
    """Send a vote on one answer, or on two side by side, each an exchange's number; whether it arrived.

    Questions and answers go along, pictures do not.
    """
    from openai import APIError

    answers: list[dict[str, Any]] = []
    for talk, number in on:
        exchange = talk.exchanges[number]
        messages = talk.sent(number, pictures=False)
        answers.append({"model": exchange.model, "messages": messages, "answer": exchange.answer})
    try:
        await client.post("/votes", cast_to=object, body={"vote": vote, "answers": answers})
    except APIError:
        return False
    return True
