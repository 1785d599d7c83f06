"""Whatever is sent, the server is never at fault; and votes of many are all kept whole."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fake_engine import FakeEngine, png_uri
from vistune.serve.api.app import create_app
from vistune.serve.api.votes import FullError, Vote, Votes
from vistune.serve.guards.limits import Limits

CHAT = "/v1/chat/completions"
FIELDS = (
    "model messages temperature top_p seed max_tokens max_completion_tokens stop stream stream_options n "
    "tools logprobs response_format logit_bias user metadata store presence_penalty role content type text "
    "image_url url detail include_usage name refusal tool_calls"
).split()
WORDS = [
    *"fake user assistant system developer text image_url auto high hello".split(),
    *("", "\0", "\ud800", "<image>", "</s>", png_uri(), "data:image/png;base64,AAAA", "file:///etc/passwd"),
]
texts = st.sampled_from(WORDS) | st.text(st.characters(), max_size=8)
numbers = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), 2**63, 0, 1, True, False, None])
names = st.sampled_from(FIELDS) | texts
values = st.recursive(
    numbers | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
parts = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"])}, optional={"text": texts}) | (
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, texts)
)
messages = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]), "content": texts | st.lists(parts, max_size=3)}
)
bodies = st.builds(
    lambda known, more: {"model": "fake"} | known | more,
    st.fixed_dictionaries({"messages": st.lists(messages, min_size=1, max_size=3) | values}),
    st.dictionaries(names, values, max_size=3),
)


@pytest.fixture(scope="module")
def client():
    limits = Limits(body_bytes=50_000, pixels=1_000)
    with TestClient(create_app({"fake": FakeEngine()}, limits)) as client:
        yield client


def check(response):
    assert response.status_code in (200, 400, 404, 413), response.text
    if response.status_code != 200:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    return response.status_code


@settings(max_examples=400)
@given(body=bodies | values)
def test_hostile_json_is_answered_or_refused(client, body):
    check(client.post(CHAT, content=json.dumps(body), headers={"Content-Type": "application/json"}))


@settings(max_examples=100)
@given(body=st.builds(lambda m: {"model": "fake", "messages": [{"role": "user", "content": m}]}, texts))
def test_any_text_is_answered_word_for_word(client, body):
    content = body["messages"][0]["content"]
    response = client.post(CHAT, content=json.dumps(body), headers={"Content-Type": "application/json"})
    good = bool(content) and not any("\ud800" <= character <= "\udfff" for character in content)
    assert check(response) == (200 if good else 400)
    if good:
        assert response.json()["choices"][0]["message"]["content"] == content


@settings(max_examples=100)
@given(content=st.binary(max_size=200), kind=st.sampled_from(["application/json", "text/plain", "", "é/x"]))
def test_hostile_bytes_are_refused(client, content, kind):
    headers = {"Content-Type": kind.encode("latin-1")}
    assert check(client.post(CHAT, content=content, headers=headers)) == 400


def vote(words):
    said = {"model": "fake", "messages": [{"role": "user", "content": words}], "answer": words}
    return Vote(vote="up", answers=[said])


def test_votes_of_many_are_whole_lines(tmp_path):
    file = tmp_path / "new" / "votes.jsonl"
    stores = [Votes(file), Votes(file)]  # as of two servers
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: stores[n % 2].append(vote(f"{n} " + "é" * 5_000)), range(60)))
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(int(row["answers"][0]["answer"].split()[0]) for row in rows) == list(range(60))


def test_votes_end_at_a_size(tmp_path):
    file = tmp_path / "votes.jsonl"
    votes = Votes(file, most_bytes=1_000)
    with pytest.raises(FullError):
        for _ in range(20):
            votes.append(vote("word"))
    assert 1 < len(file.read_bytes().splitlines()) < 10 and file.stat().st_size <= 1_000
