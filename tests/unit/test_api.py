"""The API over a fake engine: what is answered, what is refused, and how it is said."""

import json
import logging

import pytest
from fastapi.testclient import TestClient

from tests.fake_engine import FakeEngine, png_uri
from vistune.conversation import Picture, ask, gpt, human
from vistune.serve.api.app import create_app
from vistune.serve.api.votes import Votes
from vistune.serve.engine.engine import BusyError, Sampling
from vistune.serve.guards.limits import Limits

CHAT = "/v1/chat/completions"
SMALL = Limits(body_bytes=20_000, turns=9, question_characters=500, max_tokens=32, pictures=2, pixels=100)


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def client(engine):
    with TestClient(create_app({"fake": engine}, SMALL)) as client:
        yield client


def body(content="one two three", **more):
    messages = content if isinstance(content, list) and content and "role" in content[0] else None
    return {"model": "fake", "messages": messages or [{"role": "user", "content": content}], **more}


def image(uri=None):
    return {"type": "image_url", "image_url": {"url": uri or png_uri()}}


def text(words):
    return {"type": "text", "text": words}


def refused(response, status, param=None, code=None):
    """The error of a response, in OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert error["param"] == param
    if code:
        assert error["code"] == code
    return error["message"]


def events(response):
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last = response.text.split("\n\n")
    assert last == "" and all(line.startswith("data: ") for line in lines)
    return [line.removeprefix("data: ") for line in lines]


def test_an_answer_has_words_an_end_and_what_it_took(client):
    answer = client.post(CHAT, json=body()).json()
    assert answer["object"] == "chat.completion" and answer["model"] == "fake"
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "one two three", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert answer["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_a_stream_is_the_same_answer_in_pieces(client):
    response = client.post(CHAT, json=body(stream=True, stream_options={"include_usage": True}))
    *chunks, done = events(response)
    chunks = [json.loads(chunk) for chunk in chunks]
    assert done == "[DONE]"
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    told = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["delta"].get("content", "") for choice in told) == "one two three"
    assert [choice["finish_reason"] for choice in told] == [None] * 4 + ["stop"]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * 5
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 6


def test_a_stream_tells_its_usage_only_when_asked(client):
    assert all("usage" not in event for event in events(client.post(CHAT, json=body(stream=True))))


def test_a_finish_by_length_is_told(client):
    answer = client.post(CHAT, json=body(max_completion_tokens=2)).json()
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["choices"][0]["message"]["content"] == "one two"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Sampling()),
        (
            {"temperature": 0.5, "top_p": 0.9, "seed": -3, "max_tokens": 7, "stop": ["a", "b"]},
            Sampling(0.5, 0.9, -3, 7, ("a", "b")),
        ),
        ({"temperature": 1, "stop": "x", "max_completion_tokens": 8}, Sampling(1.0, 1.0, None, 8, ("x",))),
        ({"temperature": None, "stop": None, "seed": None, "n": None, "tools": None}, Sampling()),
    ],
)
def test_sampling_is_read(engine, given, expected):
    engine.context = 32
    with TestClient(create_app({"fake": engine}, SMALL)) as client:
        assert client.post(CHAT, json=body(**given)).status_code == 200
    assert engine.requests[0].sampling == expected


def test_without_a_number_the_limit_or_the_room_that_is_left_bounds_the_answer(engine, client):
    client.post(CHAT, json=body("few words"))
    assert [request.sampling.max_tokens for request in engine.requests] == [32]
    engine.requests.clear()
    assert client.post(CHAT, json=body("w " * 39 + "w")).status_code == 200
    assert [request.sampling.max_tokens for request in engine.requests] == [32, None]


def test_a_conversation_that_does_not_fit_is_refused_by_how_much(client):
    assert "takes 71 of 64" in refused(client.post(CHAT, json=body("w " * 69 + "w")), 400, "messages")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("hello", ("hello",)),
        ([text("a"), text(""), text("b")], ("a", "\nb")),
        ([image(), text("what?")], ask("what?", png_uri())),
        ([text("what?"), image()], ask("what?", png_uri(), picture_first=False)),
        ([image(), image(png_uri(2, 2)), text("what?")], ask("what?", [png_uri(), png_uri(2, 2)])),
        ([text("a\n"), image(), text("\nb")], ("a\n", Picture(png_uri()), "\n\nb")),
        ([image()], (Picture(png_uri()),)),
    ],
)
def test_parts_stand_on_lines_as_in_training(engine, client, content, expected):
    assert client.post(CHAT, json=body(content)).status_code == 200
    (turn,) = engine.requests[0].conversation.turns
    assert "".join(map(str, turn.content)) == "".join(map(str, expected))
    assert set(engine.requests[0].pictures) == set(engine.requests[0].conversation.pictures)


def test_a_conversation_keeps_its_turns_and_the_system_begins_the_first_question(engine, client):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [text("Be kind.")]},
        {"role": "user", "content": [image(), text("What is it?")]},
        {"role": "assistant", "content": "A dog.", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "Where?"},
    ]
    assert client.post(CHAT, json=body(messages)).status_code == 200
    picture = png_uri()
    assert engine.requests[0].conversation.turns == (
        human(Picture(picture), "\nBe brief.\nBe kind.", "\nWhat is it?"),
        gpt("A dog."),
        human("Where?"),
    )
    assert engine.requests[0].pictures[picture].size == (4, 3)


def test_a_system_message_precedes_a_question_that_begins_with_words(engine, client):
    messages = [
        {"role": "system", "content": "Brief."},
        {"role": "user", "content": [text("What?"), image()]},
    ]
    client.post(CHAT, json=body(messages))
    assert engine.requests[0].conversation.turns[0].content[:2] == ("Brief.", "\nWhat?\n")


USER, ANSWER = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "c"}


@pytest.mark.parametrize(
    "messages",
    [
        [SYSTEM],
        [ANSWER],
        [USER, ANSWER],
        [USER, USER],
        [ANSWER, USER],
        [USER, SYSTEM, USER],
        [USER, ANSWER, SYSTEM, USER],
        [{"role": "user", "content": ""}],
        [{"role": "user", "content": []}],
        [{"role": "user", "content": [text("")]}],
        [USER, ANSWER] * 5 + [USER],
        [{"role": "user", "content": "x" * 501}],
    ],
)
def test_what_is_no_conversation_is_refused(client, messages):
    refused(client.post(CHAT, json=body(messages)), 400, "messages")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "tool", "content": "a"}], "messages[0]"),
        (["hello"], "messages[0]"),
        ([USER, ANSWER, {"role": "user"}], "messages[2].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "messages[0].content[0]"),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": 3}]}],
            "messages[0].content[0].image_url",
        ),
        ([{"role": "system", "content": [image()]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": "a", "name": "bob"}], "messages[0].name"),
        ([USER, {"role": "assistant", "content": "a", "tool_calls": [{}]}, USER], "messages[1].tool_calls"),
    ],
)
def test_a_malformed_message_is_named(client, messages, param):
    refused(client.post(CHAT, json={"model": "fake", "messages": messages}), 400, param)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("response_format", {"type": "json_object"}),
        ("n", 2),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -1),
        ("logit_bias", {"5": 3}),
        ("modalities", ["text", "audio"]),
        ("store", True),
        ("reasoning_effort", "high"),
        ("prediction", {}),
        ("top_k", 5),
        ("temprature", 1),
    ],
)
def test_what_would_be_ignored_is_refused(client, engine, name, value):
    refused(client.post(CHAT, json=body(**{name: value})), 400, name, "unsupported_parameter")
    assert not engine.requests


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("user", "me"),
        ("metadata", {"a": "b"}),
        ("store", False),
        ("n", 1),
        ("tools", []),
        ("tool_choice", "auto"),
        ("response_format", {"type": "text"}),
        ("presence_penalty", 0.0),
        ("logprobs", False),
        ("parallel_tool_calls", True),
        ("stream", None),
    ],
)
def test_what_asks_for_nothing_is_accepted(client, name, value):
    assert client.post(CHAT, json=body(**{name: value})).status_code == 200


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**63}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": 33}, "max_tokens"),
        ({"max_completion_tokens": 33}, "max_completion_tokens"),
        ({"max_tokens": 3, "max_completion_tokens": 3}, "max_tokens"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"stop": [3]}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other"),
        ({"model": None}, "model"),
    ],
)
def test_a_value_out_of_its_range_is_named(client, field, param):
    refused(client.post(CHAT, json=body() | field), 400, param)


def test_too_many_too_large_and_remote_pictures_are_refused_and_counted(client):
    refused(client.post(CHAT, json=body([image()] * 3)), 400, "messages")
    refused(client.post(CHAT, json=body([image(png_uri(11, 10))])), 400, "messages")
    refused(client.post(CHAT, json=body([image("https://example.org/cat.png")])), 400, "messages")
    refused(client.post(CHAT, json=body([image("file:///etc/passwd")])), 400, "messages")
    figures = client.get("/metrics").text
    assert 'vistune_pictures_refused_total{reason="too many"} 1.0' in figures
    assert 'vistune_pictures_refused_total{reason="unusable"} 1.0' in figures
    assert 'vistune_pictures_refused_total{reason="address"} 2.0' in figures


def test_an_unknown_model_is_404_and_names_those_there_are(client):
    message = refused(client.post(CHAT, json=body() | {"model": "gpt-4"}), 404, "model", "model_not_found")
    assert "`gpt-4`" in message and "`fake`" in message


def test_half_characters_are_refused_wherever_they_stand(client):
    half = json.loads(r'"\ud800"')
    asked = [{"role": "user", "content": half}]
    for given, status in (
        (body() | {"model": half}, 404),
        (body() | {half: 1}, 400),
        (body() | {"messages": asked}, 400),
        (body() | {"stop": half}, 400),
    ):
        headers = {"Content-Type": "application/json"}
        assert client.post(CHAT, content=json.dumps(given), headers=headers).status_code == status, given


def test_bodies_that_are_no_json_are_400(client):
    json_type = {"Content-Type": "application/json"}
    refused(client.post(CHAT, content=b'{"model": ', headers=json_type), 400, None, "invalid_json")
    deep = b"[" * 9_000
    for content in (b"", b"[]", b"3", b'"x"', b"\xff\xfe", deep, b'{"model": 1e999, "messages": NaN}'):
        assert client.post(CHAT, content=content, headers=json_type).status_code == 400, content[:9]
    form = client.post(CHAT, content=json.dumps(body()), headers={"Content-Type": "text/plain"})
    assert "application/json" in refused(form, 400)


def test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not(client, engine):
    refused(client.post(CHAT, json=body("x" * 20_001)), 413, None, "request_too_large")
    parts = (b"x" * 1000 for _ in range(21))
    refused(client.post(CHAT, content=parts, headers={"Content-Type": "application/json"}), 413)
    assert not engine.requests


def test_no_such_page_and_no_such_method(client):
    for path in ("/v1/nothing", "/nothing", "/v1/votes"):
        refused(client.post(path, json={}), 404)
    refused(client.get(CHAT), 405)
    assert client.get(CHAT).headers["allow"] == "POST"
    refused(client.delete("/v1/models"), 405)
    refused(client.post("/health"), 405)


def test_models_are_listed_with_their_cards(client):
    (model,) = client.get("/v1/models").json()["data"]
    assert model["id"] == "fake" and model["object"] == "model" and model["max_model_len"] == 64
    assert model["card"] == {"template": "none", "parameters": 0}
    assert client.get("/v1/models/fake").json() == model
    refused(client.get("/v1/models/a/b"), 404, "model", "model_not_found")


def test_the_key_is_asked_for_where_something_is_to_be_had(engine):
    with TestClient(create_app({"fake": engine}, SMALL, "s3cret")) as client:
        for wrong in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "s3cret"}):
            for path in (CHAT, "/v1/models", "/v1/nothing"):
                response = client.post(path, json=body(), headers=wrong)
                refused(response, 401, None, "invalid_api_key")
                assert response.headers["www-authenticate"] == "Bearer"
            refused(client.get("/metrics", headers=wrong), 401)
        assert not engine.requests
        assert client.get("/health").status_code == 200
        right = {"Authorization": "Bearer s3cret"}
        assert client.post(CHAT, json=body(), headers=right).status_code == 200
        assert client.get("/metrics", headers=right).status_code == 200


def test_a_busy_engine_is_429_and_says_when_to_come_again(engine, client, monkeypatch):
    async def busy(request):
        raise BusyError(2.3)
        yield

    monkeypatch.setattr(engine, "answer", busy)
    response = client.post(CHAT, json=body())
    refused(response, 429)
    assert response.headers["retry-after"] == "3"


@pytest.mark.parametrize(("question", "status"), [("/fail", 503), ("/crash secret", 500)])
@pytest.mark.parametrize("stream", [False, True])
def test_failures_tell_nothing_of_the_inside(client, question, status, stream):
    response = client.post(CHAT, json=body(question, stream=stream))
    message = refused(response, status)
    assert "10.0.0.1" not in response.text and "secret" not in response.text and "Error" not in message


@pytest.mark.parametrize("question", ["/fail later", "/cut"])
def test_an_answer_that_fails_midway_ends_in_an_error(client, question):
    *chunks, last = events(client.post(CHAT, json=body(question, stream=True)))
    assert len(chunks) == 2 and "10.0.0.1" not in last
    assert json.loads(last)["error"]["type"] == "server_error"


def test_an_answer_without_an_end_is_no_answer(client):
    refused(client.post(CHAT, json=body("/cut")), 503)


def test_figures_count_requests_answers_and_what_engines_say(client):
    client.post(CHAT, json=body())
    client.post(CHAT, json=body("/fail"))
    client.post(CHAT, json=body(temperature=9))
    client.get("/v1/models/fake")
    figures = client.get("/metrics").text
    for line in (
        'vistune_requests_total{path="/v1/chat/completions",status="200"} 1.0',
        'vistune_requests_total{path="/v1/chat/completions",status="400"} 1.0',
        'vistune_requests_total{path="/v1/models",status="200"} 1.0',
        'vistune_answers_total{end="stop",model="fake"} 1.0',
        'vistune_answers_total{end="failed",model="fake"} 1.0',
        'vistune_first_token_seconds_count{model="fake"} 1.0',
        'vistune_request_seconds_count{path="/v1/chat/completions"} 3.0',
        'vistune_engine_tokens_written_total{model="fake"} 5.0',
        'vistune_engine_cache_bytes{model="fake"} 7.0',
    ):
        assert line in figures, line


@pytest.mark.parametrize("question", ["sesame", "/crash sesame", "/fail", "sesame " * 80])
@pytest.mark.parametrize("stream", [False, True])
def test_no_word_of_a_question_reaches_the_log(client, caplog, question, stream):
    caplog.set_level(logging.DEBUG)
    client.post(f"{CHAT}?q=sesame", json=body(question, stream=stream))
    client.post(f"{CHAT}?q=sesame", json=body(question, sesame="sesame"))
    client.get("/v1/models/sesame%0Asesame")
    ours = [record for record in caplog.records if not record.name.startswith("httpx")]
    assert ours and "sesame" not in "\n".join(map(logging.Formatter().format, ours))


def test_words_are_logged_where_the_operator_wants_that(engine, caplog):
    caplog.set_level(logging.INFO)
    with TestClient(create_app({"fake": engine}, SMALL, log_content=True)) as client:
        client.post(CHAT, json=body("open sesame"))
    assert "asked 'open sesame', answered 'open sesame'" in caplog.text


VOTE = {
    "vote": "up",
    "answers": [{"model": "fake", "messages": [{"role": "user", "content": "é?"}], "answer": "yes"}],
}


def test_votes_are_kept_only_where_the_operator_wants_that(engine, client, tmp_path):
    refused(client.post("/v1/votes", json=VOTE), 404)
    file = tmp_path / "votes.jsonl"
    with TestClient(create_app({"fake": engine}, SMALL, votes=Votes(file))) as voting:
        assert voting.post("/v1/votes", json=VOTE).status_code == 201
        assert voting.post("/v1/votes", json=VOTE | {"vote": "flag"}).status_code == 201
        refused(voting.post("/v1/votes", json=VOTE | {"vote": "maybe"}), 400, "vote")
        refused(voting.post("/v1/votes", json={"vote": "up", "answers": []}), 400, "answers")
        refused(voting.post("/v1/votes", json=VOTE | {"more": 1}), 400, "more")
        unknown = [VOTE["answers"][0] | {"model": "other"}]
        refused(voting.post("/v1/votes", json={"vote": "up", "answers": unknown}), 404, "model")
        refused(voting.get("/v1/votes"), 405)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["vote"] for row in rows] == ["up", "flag"]
    assert rows[0]["answers"] == VOTE["answers"] and "time" in rows[0]
