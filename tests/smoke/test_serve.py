"""`vistune serve starter` as a user meets it, with the official client of OpenAI."""

import base64
import subprocess
import time
from pathlib import Path

import openai
import pytest

from tests.smoke.test_commands import VISTUNE, vistune

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def server():
    """The address of a server on a free port, and the seconds until it could be asked."""
    started = time.monotonic()
    command = [VISTUNE, "serve", "starter", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            line = process.stderr.readline()
            assert " at http://" in line, line  # the first line: libraries have nothing to say before it
            yield line.split(" at ")[1].split()[0], time.monotonic() - started
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.fixture(scope="module")
def client(server):
    http = openai.DefaultHttpxClient(trust_env=False)
    with openai.OpenAI(base_url=f"{server[0]}/v1", api_key="none", max_retries=0, http_client=http) as client:
        yield client


@pytest.fixture(scope="module")
def picture(tiny_world):
    return tiny_world / "images" / "val_000000.jpg"


def asked(picture: Path, question=QUESTION):
    uri = "data:image/jpeg;base64," + base64.b64encode(picture.read_bytes()).decode()
    parts = [{"type": "image_url", "image_url": {"url": uri}}, {"type": "text", "text": question}]
    return {"model": "starter", "messages": [{"role": "user", "content": parts}]}


def test_a_picture_is_answered_as_the_terminal_answers(client, picture):
    answer = client.chat.completions.create(**asked(picture), max_tokens=64)
    words = answer.choices[0].message.content
    alone = vistune("chat", "starter", "--image", picture, "--ask", QUESTION, "--max-tokens", 64).stdout
    assert words and words == alone.strip()
    blind = client.chat.completions.create(
        model="starter", messages=[{"role": "user", "content": QUESTION}], max_tokens=64
    )
    assert blind.choices[0].message.content != words


def test_a_stream_is_the_same_answer_and_a_second_turn_is_read_from_the_cache(client, picture):
    given = asked(picture, "What else is there?")
    answer = client.chat.completions.create(**given)
    stream = client.chat.completions.create(**given, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert told == answer.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    turns = [*given["messages"], answer.choices[0].message.model_dump()]
    turns.append({"role": "user", "content": "Where?"})
    second = client.chat.completions.create(model="starter", messages=turns).usage
    assert second.prompt_tokens_details.cached_tokens >= answer.usage.prompt_tokens - 1


def test_errors_are_those_that_the_client_knows(client, picture):
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(**asked(picture) | {"model": "other"})
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked(picture), logprobs=True)
    assert refused.value.param == "logprobs"
    long = [{"role": "user", "content": "word " * 5_000}]
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.chat.completions.create(model="starter", messages=long)
    # no bound of the user's: as many tokens as there is room for
    assert client.chat.completions.create(**asked(picture)).choices[0].finish_reason == "stop"


def test_it_is_there_soon(server):
    assert server[1] < 30  # five seconds on an idle machine: benchmarks/serve.py
