"""What happens on the page: each method answers one kind of event with what is to be shown."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from vistune.serve.engine.engine import BadRequestError
from vistune.serve.guards.limits import Limits
from vistune.serve.guards.pictures import fetch_pictures
from vistune.serve.page.ask import Asker, Settings
from vistune.serve.page.looked import Looked, inert, looked_page
from vistune.serve.page.samples import Sample
from vistune.serve.page.talk import Desk, Exchange, Message, PictureError, Talk, data_uri
from vistune.serve.page.votes import BETTER, FEEDBACK, Vote, send_vote

if TYPE_CHECKING:
    from openai import AsyncOpenAI

Look = Callable[[list[Message], str], Awaitable[Looked]]
Shown = list[Any]  # desk, left chat, right chat, left status, right status, question box

_UNASKED = "Describe the picture."  # of a picture that comes without a question
_RELATIVE = "Beside the other words"
SCALES = ["Share of attention", _RELATIVE]


class Events:
    """
    Args:
        looks: of the models whose engine tells what it looked at, a function of the messages and the answer.
    """

    def __init__(
        self, client: AsyncOpenAI, samples: Sequence[Sample], looks: Mapping[str, Look], limits: Limits
    ) -> None:
        self._client, self._samples, self._looks, self._limits = client, samples, looks, limits
        self._asker = Asker(client)

    # `choices` are the values of the layout's: left and right model, whether to compare, temperature, top-p,
    # most tokens, seed. Gradio finds requests and event data by their annotations, among the positional.

    async def submit(
        self, box: Mapping[str, Any], desk: Desk, request: gr.Request, *choices: Any
    ) -> AsyncIterator[Shown]:
        """A question was sent."""
        files, question = tuple(box.get("files") or ()), (box.get("text") or "").strip()
        if not files and not question:
            gr.Info("Write a question, or add a picture.")
            return
        async for shown in self._ask(question or _UNASKED, files, desk, choices, request):
            yield shown

    async def sample(
        self, desk: Desk, event: gr.SelectData, request: gr.Request, *choices: Any
    ) -> AsyncIterator[Shown]:
        """An example was picked; its number counts, not the file that the browser names."""
        sample = self._samples[int(event.index)]
        async for shown in self._ask(sample.question, (sample.file,), desk, choices, request):
            yield shown

    async def again(self, desk: Desk, request: gr.Request, *choices: Any) -> AsyncIterator[Shown]:
        """The last question is to be answered anew."""
        if not desk.left.exchanges:
            gr.Info("There is nothing to answer again yet.")
            return
        last = desk.left.exchanges[-1]
        async for shown in self._ask(last.question, last.pictures, desk, choices, request, again=True):
            yield shown

    async def stop(self, request: gr.Request) -> None:
        """The answers under way are enough."""
        self._asker.stop(request.session_hash or "")

    async def clear(self, desk: Desk, request: gr.Request) -> Shown:
        """A new conversation."""
        await self.stop(request)
        desk.clear()
        return [desk, [], [], "", "", _box()]

    async def _ask(
        self,
        question: str,
        files: tuple[str, ...],
        desk: Desk,
        choices: Sequence[Any],
        request: gr.Request,
        again: bool = False,
    ) -> AsyncIterator[Shown]:
        session = request.session_hash or ""
        if self._asker.busy(session):
            gr.Info("An answer is being written. Stop it first.")
            return
        left, right, compare, *settings = choices
        sides = [(desk.left, left), (desk.right, right)] if compare else [(desk.left, left)]
        for talk, model in sides:
            if again and talk.exchanges and talk.exchanges[-1].question == question:
                talk.exchanges.pop()
            talk.exchanges.append(Exchange(question, files, model))
        yield [desk, desk.left.shown(), desk.right.shown(), "", "", _box(busy=True)]
        answers = self._asker.ask(session, [talk for talk, _ in sides], _settings(*settings))
        try:
            async for news in answers:
                if news:
                    yield _shown(desk)
                else:
                    yield [gr.skip()] * 6
        finally:
            await answers.aclose()
        yield [*_shown(desk)[:-1], gr.MultimodalTextbox(submit_btn=True, stop_btn=False)]

    async def vote(self, side: str, desk: Desk, event: gr.LikeData) -> None:
        """A thumb, or the flag, beside an answer."""
        talk = desk.right if side == "right" else desk.left
        index = event.index[0] if isinstance(event.index, list | tuple) else event.index
        vote = FEEDBACK.get(event.liked)
        if vote and 0 <= index // 2 < len(talk.exchanges):
            await self._send(vote, [(talk, index // 2)])

    async def better(self, button: str, desk: Desk) -> None:
        """One of two answers was called the better one."""
        left, right = desk.left.exchanges, desk.right.exchanges
        if not left or not right or left[-1].question != right[-1].question:
            gr.Info("Ask both models something first.")
            return
        await self._send(BETTER[button], [(desk.left, len(left) - 1), (desk.right, len(right) - 1)])

    async def _send(self, vote: Vote, on: list[tuple[Talk, int]]) -> None:
        if await send_vote(self._client, vote, on):
            gr.Info("Thank you.", duration=3)
        else:
            gr.Warning("The vote could not be stored.")

    async def answers(self, desk: Desk) -> Any:
        """The answers that can be looked at, the last one chosen."""
        found = [
            (f"{exchange.model}: {exchange.question[:45]} → {exchange.answer[:45]}", f"{side} {number}")
            for number in range(max(len(desk.left.exchanges), len(desk.right.exchanges)))
            for side, talk in (("right", desk.right), ("left", desk.left))
            for exchange in talk.exchanges[number : number + 1]
            if exchange.counts and exchange.state != "writing" and talk.pictures(number)
        ]
        return gr.Dropdown(choices=found, value=found[-1][1] if found else None)

    async def look(self, chosen: str | None, scale: str, desk: Desk) -> str:
        """HTML: what the model looked at as it wrote the chosen answer."""
        if not chosen:
            return _note("Ask about a picture first. Then its answers can be looked at here.")
        side, number = chosen.split()
        talk, place = desk.right if side == "right" else desk.left, int(number)
        exchange = talk.exchanges[place]
        if exchange.model not in self._looks:
            return _note(f"The engine of {exchange.model} does not tell what it looked at.")
        key = (chosen, exchange.model, exchange.answer)
        try:
            if not desk.looked or desk.looked[0] != key:
                looked = await self._looks[exchange.model](talk.sent(place), exchange.answer)
                uris = [data_uri(file) for file in talk.pictures(place)]
                desk.looked = key, (looked, await fetch_pictures(uris, self._limits))
        except (BadRequestError, PictureError) as error:
            return _note(str(error))
        looked, pictures = desk.looked[1]
        return looked_page(looked, pictures, relative=scale == _RELATIVE)


def _box(busy: bool = False) -> Any:
    """The question box, emptied."""
    return gr.MultimodalTextbox(value={"text": "", "files": []}, submit_btn=not busy, stop_btn=busy)


def _settings(temperature: float, top_p: float, max_tokens: float | None, seed: float | None) -> Settings:
    return Settings(
        temperature,
        top_p,
        None if max_tokens is None else int(max_tokens),
        None if seed is None else int(seed),
    )


def _shown(desk: Desk) -> Shown:
    sides = (desk.left, desk.right)
    return [gr.skip(), *(talk.shown() for talk in sides), *(_status(talk) for talk in sides), gr.skip()]


def _status(talk: Talk) -> str:
    """What the last answer took."""
    if not talk.exchanges:
        return ""
    exchange = talk.exchanges[-1]
    parts = []
    if exchange.state == "done" and exchange.seconds and exchange.answer:
        first, whole = exchange.seconds
        parts.append(f"first word after {first:.2f} s")
        if exchange.tokens:
            parts.append(f"{exchange.tokens} tokens in {whole:.1f} s")
    if exchange.note and exchange.state == "done":
        parts.append(exchange.note)
    return inert(escape(" · ".join(parts)))


def _note(text: str) -> str:
    return f'<p class="vt-note">{inert(escape(text))}</p>'
