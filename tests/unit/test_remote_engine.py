"""An OpenAI-compatible server behind our guards."""

import asyncio
import base64
import io
import json
import socket

import numpy as np
import pytest
from PIL import Image

from tests.fake_openai import FakeOpenAI, chunk
from vistune.conversation import Conversation, ask, gpt, human
from vistune.errors import VistuneError
from vistune.serve.engine.as_openai import PNG_PIXELS, to_data_uri
from vistune.serve.engine.engine import (
    BadRequestError,
    BusyError,
    ChatRequest,
    EngineError,
    Piece,
    Sampling,
    Usage,
)
from vistune.serve.engine.remote import Remote, RemoteOptions
from vistune.serve.engine.server import find_server, read_address

KEY = "sk-test-4711"


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # not asked for what is on this machine


@pytest.fixture
def server():
    with FakeOpenAI() as fake:
        yield fake


def photograph(width=32, height=24, seed=0):
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def request(question="How many dogs?", sampling=None, **pictures):
    turns = (human(*ask(question, list(pictures) or None)),)
    return ChatRequest(Conversation("1", turns), pictures, sampling or Sampling())


def collect(engine, asked):
    async def pieces():
        try:
            return [piece async for piece in engine.answer(asked)]
        finally:
            await engine.close()

    return asyncio.run(pieces())


def refused(server, kind, asked=None):
    engine = Remote.connect(server.url, "llava")
    with pytest.raises(kind) as error:
        collect(engine, asked or request())
    assert KEY not in str(error.value) and error.value.__cause__ is None
    assert engine.state()["running"] == 0
    return engine, error.value


def test_an_answer_is_streamed_with_its_usage(server):
    engine = Remote.connect(server.url)
    pieces = collect(engine, request())
    assert pieces == [
        Piece("How"),
        Piece(" many"),
        Piece(" dogs?"),
        Piece("", "stop", Usage(11, 3, cached=7)),
    ]
    assert (engine.name, engine.context) == ("llava", 2048)
    assert engine.state() == {
        "running": 0,
        "waiting": 0,
        "tokens_read": 11,
        "tokens_cached": 7,
        "tokens_written": 3,
        "failed": 0,
    }
    assert server.url not in json.dumps(engine.card)  # it is shown to everyone
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_pictures_come_as_their_pixels(server):
    picture = photograph()
    picture.info = {"comment": b"taken at home", "icc_profile": b"profile", "exif": b"Exif\0\0secret"}
    collect(Remote.connect(server.url), request("What is it?", a=picture))
    (message,) = server.asked[0]["messages"]
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]
    assert message["content"][1]["text"] == "What is it?"
    head, data = message["content"][0]["image_url"]["url"].split(",")
    file = base64.b64decode(data)
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(file))), np.asarray(picture))
    assert not any(word in file for word in (b"home", b"profile", b"secret"))


def test_large_pictures_come_as_jpeg():
    width = 2000
    gradient = np.linspace(0, 255, width * (PNG_PIXELS // width + 1)).astype(np.uint8)
    picture = Image.merge("RGB", [Image.fromarray(gradient.reshape(-1, width))] * 3)
    head, data = to_data_uri(picture).split(",")
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
    assert head == "data:image/jpeg;base64"
    assert abs(read - np.asarray(picture)).max() <= 4


def test_a_conversation_comes_whole_and_in_order(server):
    turns = (
        human(*ask("What is it?", "a")),
        gpt("A dog."),
        human(*ask("And there?", "b", picture_first=False)),
    )
    pictures = {"a": photograph(), "b": photograph(seed=1)}
    collect(Remote.connect(server.url), ChatRequest(Conversation("1", turns), pictures))
    first, second, third = server.asked[0]["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    assert second == {"role": "assistant", "content": "A dog."}
    assert [part["type"] for part in third["content"]] == ["text", "image_url"]
    assert third["content"][0]["text"] == "And there?"
    assert first["content"][0] != third["content"][1]


def test_sampling_is_forwarded(server):
    wanted = Sampling(0.7, 0.9, seed=5, max_tokens=17, stop=("###", "END"))
    collect(Remote.connect(server.url), request(sampling=wanted))
    body = server.asked[0]
    found = {name: body[name] for name in ("temperature", "top_p", "seed", "max_tokens", "stop")}
    assert found == {"temperature": 0.7, "top_p": 0.9, "seed": 5, "max_tokens": 17, "stop": ["###", "END"]}
    assert body["model"] == "llava" and body["stream_options"] == {"include_usage": True}


def test_what_is_not_said_is_left_to_the_server(server):
    collect(Remote.connect(server.url), request())
    assert not {"seed", "max_tokens", "stop"} & server.asked[0].keys()


def test_the_end_by_length_is_told(server):
    server.chunks = [chunk("A"), chunk("", "length"), "[DONE]"]
    assert collect(Remote.connect(server.url), request()) == [Piece("A"), Piece("", "length", None)]


def test_outer_white_space_is_left_out(server):
    server.chunks = [
        chunk(" "),
        chunk("\n A"),
        chunk(" dog. \n"),
        chunk(" Two"),
        chunk(" \n"),
        chunk("", "stop"),
    ]
    pieces = collect(Remote.connect(server.url), request())
    assert [piece.text for piece in pieces] == ["A", " dog.", " \n Two", ""]


def test_the_models_own_stops_are_added(server):
    engine = Remote("m", find_server(server.url), options=RemoteOptions(stops=("###",)))
    collect(engine, request(sampling=Sampling(stop=("END",))))
    assert server.asked[0]["stop"] == ["END", "###"]


def test_a_text_never_becomes_a_picture(server):
    _, error = refused(server, BadRequestError, request("<image> What is it?"))
    assert "<image>" in str(error) and error.param == "messages"
    assert not server.asked


@pytest.mark.parametrize("status", [400, 422])
def test_the_servers_refusal_is_the_users_to_mend(server, status):
    error = {"message": f"This model reads 2048 tokens,\nyou sent 3000 ({KEY}).", "param": "messages"}
    server.reply = (status, {}, json.dumps({"error": error}).encode())
    engine, found = refused(server, BadRequestError)
    assert str(found) == "This model reads 2048 tokens, you sent 3000 ([key])."
    assert found.param == "messages" and engine.state()["failed"] == 0


def test_too_large_a_request_is_told(server):
    server.reply = (413, {}, b"<html>no</html>")
    assert "too large" in str(refused(server, BadRequestError)[1])


@pytest.mark.parametrize(
    ("header", "seconds"), [("7", 7.0), ("soon", 1.0), ("nan", 1.0), ("-3", 1.0), ("1e9", 1.0)]
)
def test_a_busy_server_says_when_to_come_again(server, header, seconds):
    server.reply = (429, {"Retry-After": header}, b'{"error": {"message": "slow down"}}')
    assert refused(server, BusyError)[1].retry_after == seconds


@pytest.mark.parametrize("status", [401, 403, 404, 500, 502, 503, 529])
def test_the_servers_own_failure_tells_nothing_of_what_it_said(server, status):
    engine = Remote.connect(server.url)
    server.reply = (status, {}, json.dumps({"error": {"message": f"/srv/models, {KEY}"}}).encode())
    with pytest.raises(EngineError) as error:
        collect(engine, request())
    assert str(status) in str(error.value) and "/srv" not in str(error.value) and KEY not in str(error.value)
    assert engine.state()["failed"] == 1 and len(server.asked) == 1  # once, not again and again


def test_no_credit_is_no_queue(server):
    server.reply = (429, {}, b'{"error": {"message": "pay", "code": "insufficient_quota"}}')
    assert "credit" in str(refused(server, EngineError)[1])


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk("A dog")],
        [chunk("A dog"), "[DONE]"],
        [chunk("A dog"), '{"error": {"message": "out of memory at /srv"}}'],
        [chunk("A dog"), "{"],
        ["5"],
        ['{"choices": [{"delta": "x"}]}'],
        ['{"choices": [{"delta": {"content": 5}}]}'],
        ['{"choices": 7}'],
    ],
)
def test_an_answer_that_breaks_off_is_no_answer(server, chunks):
    server.chunks = chunks
    _, error = refused(server, EngineError)
    assert "/srv" not in str(error)


def test_a_server_that_has_gone_and_comes_back():
    with FakeOpenAI() as server:
        port = server.server_port
        engine = Remote.connect(server.url)
    with pytest.raises(EngineError, match="no connection"):
        collect(engine, request())
    engine = Remote("llava", engine._server)
    with FakeOpenAI(port):
        assert collect(engine, request())[-1].finish == "stop"


def test_cancelling_closes_the_servers_stream(server):
    server.endless = True

    async def leave():
        engine = Remote.connect(server.url)
        answer = engine.answer(request())
        assert (await anext(answer)).text == "again"
        assert engine.state()["running"] == 1
        await answer.aclose()
        assert engine.state()["running"] == 0
        gone = await asyncio.to_thread(server.gone.wait, 5)
        await engine.close()
        return gone

    assert asyncio.run(leave())


def test_a_cancelled_task_closes_it_too(server):
    server.endless = True

    async def leave():
        engine = Remote.connect(server.url)
        task = asyncio.create_task(asyncio.wait_for(_all(engine), 0.3))
        with pytest.raises(asyncio.TimeoutError):
            await task
        gone = await asyncio.to_thread(server.gone.wait, 5)
        assert engine.state()["running"] == 0
        await engine.close()
        return gone

    async def _all(engine):
        return [piece async for piece in engine.answer(request())]

    assert asyncio.run(leave())


def test_more_than_may_be_in_flight_come_again(server):
    server.endless = True

    async def crowd():
        engine = Remote.connect(server.url, options=RemoteOptions(in_flight=1))
        first = engine.answer(request())
        await anext(first)
        with pytest.raises(BusyError):
            await anext(engine.answer(request()))
        await first.aclose()
        server.endless = False
        assert [piece async for piece in engine.answer(request())][-1].finish == "stop"
        await engine.close()

    asyncio.run(crowd())


@pytest.mark.parametrize(
    ("entry", "context"),
    [
        ({"max_model_len": 4096}, 4096),
        ({"meta": {"n_ctx": 512, "n_ctx_train": 2048}}, 512),
        ({"context_length": 1000}, 1000),
        ({"max_model_len": None}, None),
        ({"max_model_len": "much", "meta": []}, None),
        ({}, None),
    ],
)
def test_the_context_is_what_the_server_says(entry, context):
    with FakeOpenAI(models=[{"id": "m", **entry}]) as server:
        assert find_server(server.url).context == context


def test_which_model_must_be_clear():
    with FakeOpenAI(models=[{"id": "a", "max_model_len": 9}, {"id": "b"}]) as server:
        with pytest.raises(VistuneError, match=r"serves a, b\. Name one"):
            find_server(server.url)
        with pytest.raises(VistuneError, match=r"no model 'c'; it has a, b"):
            find_server(server.url, "c")
        assert find_server(server.url, "a").context == 9
        server.models = []
        with pytest.raises(VistuneError, match="no model that it tells of"):
            find_server(server.url)


def test_a_server_that_lists_no_models_can_be_named_one(server):
    server.reply = (404, {}, b"{}")
    assert find_server(server.url, "llava").model == "llava"
    with pytest.raises(VistuneError, match="Name one"):
        find_server(server.url)


def test_a_refused_key_is_told(server):
    server.reply = (401, {}, json.dumps({"error": {"message": KEY}}).encode())
    with pytest.raises(VistuneError, match="OPENAI_API_KEY") as error:
        find_server(server.url)
    assert KEY not in str(error.value)


def test_nothing_answers_there():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        with pytest.raises(VistuneError, match="Start the server first"):
            find_server(f"http://127.0.0.1:{closed.getsockname()[1]}")


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        (" https://api.example.org/openai/v1/ ", "https://api.example.org/openai/v1"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_is_completed(given, address):
    assert read_address(given) == address


@pytest.mark.parametrize(
    "given",
    ["", "localhost:8000", "ftp://a/v1", "http://", "http://a:b/v1", "http://a/v1?x=1", "http://[::1"],
)
def test_what_is_no_address_is_refused(given):
    with pytest.raises(VistuneError, match="--base-url"):
        read_address(given)


def test_a_password_in_an_address_is_refused_and_not_repeated():
    with pytest.raises(VistuneError, match="OPENAI_API_KEY") as error:
        read_address("https://me:hush@example.org/v1")
    assert "hush" not in str(error.value)
