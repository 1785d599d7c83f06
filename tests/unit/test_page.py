"""The page as a browser uses it, before a small API: what it asks, what it shows, what it refuses."""

import base64
import io
import re
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")

from tests.fake_api import FakeApi, serving
from tests.page_client import PageClient, PageError, in_threads, texts
from vistune.errors import VistuneError
from vistune.serve.guards.limits import Limits
from vistune.serve.page.mount import mount_page

CARDS = {"small": {"template": "v1", "parameters": 24_000_000}, "big <b>one</b>": {"note": "<i>&</i>"}}
ANSWER = "A dog and two cats."


def png(size=(8, 6), colour="red", format="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, format)
    return buffer.getvalue()


async def look(messages, answer):
    words = answer.split()
    count = sum(part["type"] == "image_url" for m in messages if m["role"] == "user" for part in m["content"])
    maps = [np.eye(4, dtype=np.float32)[None].repeat(len(words), 0) for _ in range(count)]
    return SimpleNamespace(words=words, maps=maps, boxes=[(0.0, 0.0, 1.0, 1.0)] * count)


@pytest.fixture(scope="module")
def fake():
    return FakeApi()


@pytest.fixture(scope="module")
def address(fake):
    def make(url):
        return mount_page(
            fake.app(), api_url=f"{url}/v1", models=CARDS, votes=True, looks={"small": look},
            limits=Limits(picture_bytes=100_000),
        )  # fmt: skip

    with serving(make) as url:
        yield url


@pytest.fixture
def api(fake):
    fake.__init__()  # the application keeps the object
    return fake


@pytest.fixture
def page(address, api):
    with PageClient(address) as client:
        yield client


def test_an_answer_streams_and_the_next_turn_knows_it(page, api):
    api.pause = 0.1
    shown = page.ask("How many?", page.upload("dog.png", png()))
    grown = [texts(step[1])[-1][1] for step in shown if step[1]]
    assert len({text for text in grown if ANSWER.startswith(text)}) >= 3  # word by word
    assert texts(shown[-1][1]) == [("user", "[file]How many?"), ("assistant", ANSWER)]
    assert "tokens in" in shown[-1][3]

    again = page.ask("And now?")
    assert texts(again[-1][1])[2:] == [("user", "And now?"), ("assistant", ANSWER)]
    first, second, third = api.requests[1]["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    kind, data = first["content"][0]["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data) == png()  # byte for byte
    assert (second["role"], second["content"]) == ("assistant", ANSWER)
    assert third["content"] == [{"type": "text", "text": "And now?"}]


def test_settings_go_along_and_empty_ones_do_not(page, api):
    page.ask("Hello")
    assert not {"max_tokens", "seed"} & set(api.requests[0])
    page.ask("Hello", **{"Temperature": 0.7, "Top-p": 0.5, "Most new tokens": 9, "Seed": 3})
    sent = api.requests[1]
    assert (sent["temperature"], sent["top_p"], sent["max_tokens"], sent["seed"]) == (0.7, 0.5, 9, 3)
    assert sent["stream"] and sent["stream_options"] == {"include_usage": True} and sent["model"] == "small"


def test_two_models_answer_at_the_same_time(page, api):
    api.pause = 0.1
    shown = page.ask("Hello", **{"Compare with a second model": True})
    assert texts(shown[-1][1]) == texts(shown[-1][2]) == [("user", "Hello"), ("assistant", ANSWER)]
    assert api.most_running == 2
    assert {request["model"] for request in api.requests} == set(CARDS)


def test_answering_again_replaces_the_last_answer(page, api):
    api.words = ["number {n}"]
    page.ask("One?")
    page.ask("Two?")
    shown = page.run("vt-again", "click", None)
    assert [text for _, text in texts(shown[-1][1])] == ["One?", "number 1", "Two?", "number 3"]
    assert [message["content"] for message in api.requests[2]["messages"]][1] == "number 1"
    cleared = page.run("vt-clear", "click", None)
    assert cleared[-1][1] == []
    page.ask("Three?")
    assert len(api.requests[3]["messages"]) == 1


def test_an_example_is_asked_by_its_number(page, api):
    forged = {"index": 1, "value": {"text": "x", "files": []}}
    page.run("vt-left", "example_select", None, data=forged)
    picture, words = api.requests[0]["messages"][0]["content"]
    assert words["text"] == "How many eggs are there?"
    data = base64.b64decode(picture["image_url"]["url"].split(",")[1])
    assert Image.open(io.BytesIO(data)).size == (256, 256)


def until(true, seconds=10):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_stop_ends_the_request_and_keeps_what_was_written(page, api):
    api.words, api.pause = ["word "] * 400, 0.05
    page.start("vt-box", "submit", {"text": "Hello", "files": []}, None)
    seen = []
    reader = threading.Thread(target=lambda: seen.extend(page.outputs()))
    reader.start()
    until(lambda: api.running == 1)
    time.sleep(0.5)
    stopper = page.find("vt-box", "stop")
    body = {"fn_index": stopper["id"], "data": [], "session_hash": page.session}
    httpx.post(f"{page.http.base_url}/gradio_api/queue/join", json=body, trust_env=False).raise_for_status()
    until(lambda: api.cut_off == 1)
    reader.join(10)
    final = [step for step in seen if len(step) == 6][-1]
    assert re.fullmatch(r"(word )+… \(stopped\)", texts(final[1])[-1][1])
    page.ask("Go on.", **{})
    assert len(api.requests[1]["messages"]) == 3  # what was written counts


def test_a_closed_tab_ends_its_request(address, api):
    api.words, api.pause = ["word "] * 400, 0.05
    with PageClient(address) as client:
        client.start("vt-box", "submit", {"text": "Hello", "files": []}, None)
        for message in client.read():
            if message["msg"] == "process_generating":
                break
    until(lambda: api.cut_off == 1)
    assert api.running == 0


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        ((429, {"message": "It is busy."}, {"Retry-After": "7"}), "⚠ It is busy. Try again in 7 s."),
        ((400, {"message": "It is 9 tokens too long."}, {}), "⚠ It is 9 tokens too long."),
    ],
)  # fmt: skip
def test_an_error_is_told_in_the_chat_and_forgotten_on_the_next_turn(page, api, refusal, told):
    api.refusal = refusal
    shown = page.ask("One?")
    assert texts(shown[-1][1]) == [("user", "One?"), ("assistant", told)]
    assert len(api.requests) == 1  # not tried again behind the user's back
    api.refusal = None
    page.ask("Two?")
    assert len(api.requests[1]["messages"]) == 1


def test_what_is_no_picture_is_told(page, api):
    shown = page.ask("What?", page.upload("dog.png", b"not a picture"))
    assert "not a picture that can be read" in texts(shown[-1][1])[-1][1] and not api.requests


def test_an_empty_question_asks_nothing_and_a_bare_picture_is_described(page, api):
    page.ask("  ")
    assert not api.requests
    page.ask("", page.upload("dog.png", png()))
    assert api.requests[0]["messages"][0]["content"][1]["text"] == "Describe the picture."


def test_markup_is_shown_as_text(page, api):
    api.words = ["<img src=x onerror=alert(1)> 3 < 4 & ", "a &lt; ![x](http://example.com/a.png)"]
    shown = page.ask("<script>alert(1)</script>")
    (_, question), (_, answer) = texts(shown[-1][1])
    assert question == "&lt;script>alert(1)&lt;/script>"
    assert answer.startswith("&lt;img src=x onerror=alert(1)> 3 < 4 & a &amp;lt;")
    chat = next(part for part in page.config["components"] if part["props"].get("elem_id") == "vt-left")[
        "props"
    ]
    assert not chat["render_markdown"] and chat["sanitize_html"] and chat["latex_delimiters"] == []
    assert (
        api.requests[0]["messages"][0]["content"][0]["text"] == "<script>alert(1)</script>"
    )  # sent as it is


def test_sixty_browsers_are_answered_at_once(address, api):
    api.words, api.pause = ["word "] * 4, 0.8
    clients = [PageClient(address) for _ in range(60)]
    seen = []
    in_threads(*(lambda client=client: seen.append(client.ask("Hello")[-1]) for client in clients))
    assert len(seen) == 60 and all(texts(step[1])[-1][1] == "word word word word" for step in seen)
    assert api.most_running > 40  # Gradio's own queue has 40 places


def test_votes_say_which_answer_and_no_picture_goes_along(page, api):
    page.ask("How many?", page.upload("dog.png", png()), **{"Compare with a second model": True})
    thumb = {"index": 1, "value": "x", "liked": True}
    page.run("vt-left", "like", None, data=thumb)
    page.run("vt-right", "like", None, data={**thumb, "liked": "Flag"})
    better = next(p for p in page.config["components"] if p["props"].get("value") == "Right is better ▶")
    event = next(d for d in page.config["dependencies"] if [better["id"], "click"] in d["targets"])
    page.run_event(event, None)
    assert [vote["vote"] for vote in api.votes] == ["up", "flag", "right"]
    assert [[answer["model"] for answer in vote["answers"]] for vote in api.votes] == [
        ["small"], ["big <b>one</b>"], ["small", "big <b>one</b>"]
    ]  # fmt: skip
    assert api.votes[0]["answers"][0]["messages"] == [{"role": "user", "content": "[picture]\nHow many?"}]
    page.run("vt-left", "like", None, data={**thumb, "index": 99})
    page.run("vt-left", "like", None, data={**thumb, "liked": "Anything"})
    assert len(api.votes) == 3


def test_what_the_model_looked_at(page, api):
    page.ask("How many?", page.upload("dog.png", png()))
    tab = next(d for d in page.config["dependencies"] if d["targets"] and d["targets"][0][1] == "select")
    (answers,) = page.run_event(tab, None)[-1]
    assert answers["value"] == "left 0" and answers["choices"][0][0].startswith("small: How many?")
    seen = next(d for d in page.config["dependencies"] if d["targets"] and d["targets"][0][1] == "input"
                and len(d["inputs"]) == 3 and len(d["outputs"]) == 1 and len(d["targets"]) == 2)  # fmt: skip
    body = {
        "fn_index": seen["id"],
        "data": ["left 0", "Share of attention", None],
        "session_hash": page.session,
    }
    page.http.post("/gradio_api/queue/join", json=body).raise_for_status()
    (html,) = list(page.outputs())[-1]
    assert html.count('type="radio"') == 1 + len(ANSWER.split()) and ">cats.<" in html


# What the page must not do


def test_only_uploads_are_taken_for_pictures(page, api, tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(png())
    for path in (str(secret), "/etc/hostname.png", "http://127.0.0.1:1/a.png", "https://example.com/a.png"):
        with pytest.raises(PageError):
            page.ask("Hello", {"path": path, "meta": {"_type": "gradio.FileData"}})
    assert not api.requests


def test_no_file_but_uploads_is_served(page, tmp_path):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    mine = page.upload("dog.png", png())["path"]
    assert page.http.get(f"/gradio_api/file={mine}").content == png()
    folder = str(Path(mine).parent.parent)
    for path in (
        secret, Path(__file__), Path.cwd() / "pyproject.toml", "/etc/passwd", f"{folder}/../../etc/passwd",
        "https://example.com/", "http://127.0.0.1:1/", "//example.com/x", "file:///etc/passwd", "",
    ):  # fmt: skip
        answer = page.http.get(f"/gradio_api/file={path}")
        assert answer.status_code in (403, 404) and "secret" not in answer.text, path


@pytest.mark.parametrize(
    "route",
    [
        "GET /gradio_api/proxy=https://example.com/", "GET /monitoring", "GET /gradio_api/token",
        "GET /gradio_api/runs", "POST /gradio_api/run/predict", "POST /gradio_api/component_server",
        "GET /gradio_api/file/etc/passwd", "POST /gradio_api/call/submit", "GET /gradio_api/dev/reload",
        "GET /gradio_api/deep_link?session_hash=x", "DELETE /", "POST /", "GET /nowhere",
    ],
)  # fmt: skip
def test_other_routes_of_gradio_are_closed(page, route):
    assert page.http.request(*route.split(" ")).status_code == 404


def test_other_sites_cannot_use_a_visitors_page(page):
    elsewhere = {"Origin": "https://example.com", "Host": "chat.example.org"}
    answer = page.http.get("/config", headers=elsewhere)
    assert not [name for name in answer.headers if name.startswith("access-control")]
    form = {"files": ("a.png", png())}
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        written = page.http.post("/gradio_api/upload", files=form, headers={"Sec-Fetch-Site": site})
        assert written.status_code == status


def test_uploads_are_limited(page):
    answer = page.http.post("/gradio_api/upload", files={"files": ("big.png", b"0" * 200_000)})
    assert answer.status_code == 413


def test_the_page_asks_nobody_else(page):
    home = page.http.get("/")
    policy = home.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "connect-src 'self'" in policy and "http" not in policy
    sheet = page.http.get("/theme.css").text
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+", "", sheet) and "system-ui" in sheet
    for asked in re.findall(r'<(?:script|link|img)[^>]*?(?:src|href)="([^"]+)"', home.text):
        assert not asked.startswith(("http", "//")), asked
    config = page.config
    assert config["analytics_enabled"] is False and config.get("api_prefix") == "/gradio_api"
    assert not config.get("stylesheets") and not config.get("footer_links")
    assert all(event["api_visibility"] == "private" for event in config["dependencies"])


def test_the_card_is_escaped(page):
    values = [str(part["props"].get("value")) for part in page.config["components"]]
    cards = [value for value in values if "vt-card" in value]
    assert "24,000,000" in cards[0] and "<b>one" not in cards[0]


def test_with_a_key_the_page_wants_it_and_never_shows_it():
    api, key = FakeApi(), "s3cret-of-the-api"

    def make(url):
        return mount_page(api.app(), api_url=f"{url}/v1", models={"small": {}}, key=key)

    with serving(make) as url:
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as stranger:
            assert stranger.get("/").status_code == 200  # the form
            assert stranger.get("/config").status_code == 401
            upload = stranger.post("/gradio_api/upload", files={"files": ("a.png", png())})
            assert upload.status_code == 401
            join = stranger.post(
                "/gradio_api/queue/join", json={"fn_index": 0, "data": [], "session_hash": "x"}
            )
            assert join.status_code == 401
            wrong = stranger.post("/login", data={"username": "me", "password": "wrong"})
            assert wrong.status_code == 400
        with PageClient(url, login=("anybody", key)) as page:
            shown = page.ask("Hello")
            assert texts(shown[-1][1])[-1][1] == ANSWER
            assert api.headers[0]["authorization"] == f"Bearer {key}"
            assert key not in str(page.config) + page.http.get("/").text + str(shown)
            with pytest.raises(StopIteration):  # no votes here, no thumbs
                page.find("vt-left", "like")


def test_the_api_answers_before_the_page_is_there():
    api = FakeApi()

    def make(url):
        return mount_page(api.app(), api_url=f"{url}/v1", models={"small": {}})

    start = time.monotonic()
    with serving(make) as url:
        body = {"model": "small", "messages": [{"role": "user", "content": "Hello"}]}
        answer = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30, trust_env=False)
        assert answer.status_code == 200 and time.monotonic() - start < 3
    assert time.monotonic() - start < 10  # and ends without waiting for it


def test_open_pages_do_not_hold_up_the_end():
    api = FakeApi()

    def make(url):
        return mount_page(api.app(), api_url=f"{url}/v1", models={"small": {}})

    ended = threading.Event()
    with serving(make) as url:
        client = PageClient(url)
        opened = threading.Event()

        def keep_open():
            with client.http.stream("GET", f"/gradio_api/heartbeat/{client.session}") as answer:
                for _ in answer.iter_bytes():
                    opened.set()
            ended.set()

        threading.Thread(target=keep_open).start()
        assert opened.wait(10) and not ended.is_set()
        begun = time.monotonic()
    assert ended.wait(1) and time.monotonic() - begun < 3  # not the web server's five seconds of grace


def test_a_page_without_models_is_refused():
    with pytest.raises(VistuneError, match="at least one model"):
        mount_page(FakeApi().app(), api_url="http://127.0.0.1:1/v1", models={})
