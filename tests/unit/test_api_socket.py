"""The API over a real socket: clients that leave, bodies without an end, the end of the server."""

import asyncio
import contextlib
import json
import socket

import httpx
import openai
import pytest
import uvicorn

from tests.fake_engine import FakeEngine, png_uri
from vistune.serve.api.app import create_app
from vistune.serve.guards.limits import Limits

CHAT = "/v1/chat/completions"
PATIENCE = 20


class Served:
    """A server in this event loop, and a client of it."""

    def __init__(self, engine, limits=None, **options):
        self.engine, self.app = engine, create_app({engine.name: engine}, limits, **options)
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, access_log=False))

    async def __aenter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._task = asyncio.create_task(self._server._serve([self._socket]))
        while not self._server.started:
            await asyncio.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.AsyncClient(base_url=self.url, timeout=PATIENCE, trust_env=False)
        return self

    async def __aexit__(self, *_):
        await self.http.aclose()
        self._server.should_exit = True
        await self._task

    def ask(self, content, **more):
        body = {"model": self.engine.name, "messages": [{"role": "user", "content": content}], **more}
        return self.http.post(CHAT, json=body)

    def client(self, key="none"):
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        return openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=http)

    async def until(self, condition):
        for _ in range(100 * PATIENCE):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise TimeoutError


def in_loop(work):
    return asyncio.run(asyncio.wait_for(work, 3 * PATIENCE))


@pytest.mark.parametrize("question", ["/wait", "/slow"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_frees_its_place(question, stream):
    async def run():
        async with Served(FakeEngine(), Limits(queue=0), at_once=1) as served:
            asking = asyncio.create_task(served.ask(question, stream=stream))
            await served.until(lambda: served.engine.running)
            busy = await served.ask("hello")
            assert busy.status_code == 429 and busy.headers["retry-after"] == "1"
            asking.cancel()
            await served.until(lambda: not served.engine.running)
            assert served.engine.cancelled == 1
            assert (await served.ask("hello")).status_code == 200
            figures = (await served.http.get("/metrics")).text
            assert 'vistune_answers_total{end="cancelled",model="fake"} 1.0' in figures
            assert 'vistune_answers_total{end="busy",model="fake"} 1.0' in figures
            status = 200 if stream and question == "/slow" else 499
            assert f'vistune_requests_total{{path="{CHAT}",status="{status}"}}' in figures

    in_loop(run())


@pytest.mark.parametrize("end", [b"", b"5\r\nabc"])
def test_a_client_that_leaves_amid_its_body_does_no_harm(end):
    async def run():
        async with Served(FakeEngine()) as served:
            _, writer = await asyncio.open_connection("127.0.0.1", served.port)
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            writer.write(head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + end)
            await writer.drain()
            await asyncio.sleep(0.1)
            writer.close()
            assert (await served.ask("hello")).status_code == 200
            assert len(served.engine.requests) == 1

    in_loop(run())


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_over_the_limit_is_refused_while_it_is_read(declared):
    """Of a body without an end, the answer comes before the end."""

    async def run():
        async with Served(FakeEngine(), Limits(body_bytes=100_000)) as served:
            reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
            length = "Content-Length: 100000000" if declared else "Transfer-Encoding: chunked"
            head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n"
            writer.write(head.encode())
            for _ in range(11):
                writer.write(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
                with contextlib.suppress(ConnectionError):
                    await writer.drain()
            status = await asyncio.wait_for(reader.readline(), PATIENCE)
            assert b" 413 " in status
            writer.close()
            whole = await served.ask("x" * 200_000)
            assert whole.status_code == 413 and whole.json()["error"]["code"] == "request_too_large"
            assert not served.engine.requests

    in_loop(run())


def test_openai_s_client_reads_answers_streams_and_errors():
    async def run():
        async with Served(FakeEngine(), key="right") as served:
            client = served.client("right")
            parts = [
                {"type": "image_url", "image_url": {"url": png_uri(), "detail": "low"}},
                {"type": "text", "text": "what is it"},
            ]
            given = {"model": "fake", "messages": [{"role": "user", "content": parts}]}
            answer = await client.chat.completions.create(**given)
            assert answer.choices[0].message.content == "[4x3]\nwhat is it"
            assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens // 2
            stream = await client.chat.completions.create(
                **given, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            told = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert told == answer.choices[0].message.content and chunks[-1].usage == answer.usage
            # what was answered can be sent back as it is
            turns = [*given["messages"], answer.choices[0].message.model_dump()]
            turns.append({"role": "user", "content": "and"})
            again = await client.chat.completions.create(model="fake", messages=turns)
            assert again.choices[0].message.content == "and"
            assert [model.id async for model in await client.models.list()] == ["fake"]
            with pytest.raises(openai.AuthenticationError):
                await served.client("wrong").models.list()
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("other")
            with pytest.raises(openai.BadRequestError) as refused:
                await client.chat.completions.create(**given, n=2)
            assert refused.value.param == "n" and refused.value.code == "unsupported_parameter"
            later = [{"role": "user", "content": "/fail later"}]
            stream = await client.chat.completions.create(model="fake", messages=later, stream=True)
            with pytest.raises(openai.APIError, match="could not answer"):
                [chunk async for chunk in stream]

    in_loop(run())


def test_the_end_of_the_server_ends_what_is_answered_and_refuses_the_rest():
    async def run():
        async with Served(FakeEngine()) as served:
            waiting = asyncio.create_task(served.ask("/wait"))
            slow = asyncio.create_task(served.ask("/slow", stream=True))
            await served.until(lambda: served.engine.running == 2)
            served.app.state.desk.close()
            assert (await served.http.get("/health")).json()["status"] == "closing"
            late = await served.ask("hello")
            assert late.status_code == 503 and "shutting down" in late.json()["error"]["message"]
            assert not waiting.done() and not slow.done()
            served.app.state.desk.end()
            assert (await waiting).status_code == 503
            *_, last, _ = (await slow).text.split("\n\n")
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
            assert served.engine.running == 0 and served.engine.cancelled == 2

    in_loop(run())


def test_many_at_once_are_each_told_their_own():
    async def run():
        async with Served(FakeEngine(), at_once=8) as served:
            replies = await asyncio.gather(*(served.ask(f"number {n}") for n in range(40)))
            said = [reply.json()["choices"][0]["message"]["content"] for reply in replies]
            assert said == [f"number {n}" for n in range(40)]

    in_loop(run())
