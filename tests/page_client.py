"""What a browser does with the page, over HTTP alone: fetch its layout, upload, start events, read on."""

from __future__ import annotations

import copy
import json
import secrets
import threading
from collections.abc import Iterator
from typing import Any

import httpx


class PageClient:
    """One browser's page; use it as a context."""

    def __init__(self, address: str, login: tuple[str, str] | None = None) -> None:
        self.http = httpx.Client(base_url=address, timeout=60, trust_env=False)
        self.session = secrets.token_hex(6)
        if login:
            name, password = login
            self.http.post("/login", data={"username": name, "password": password}).raise_for_status()
        answer = self.http.get("/config")
        answer.raise_for_status()
        self.config = answer.json()
        self.defaults = {part["id"]: part["props"].get("value") for part in self.config["components"]}

    def __enter__(self) -> PageClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        answer = self.http.post("/gradio_api/upload", files={"files": (name, data)})
        answer.raise_for_status()
        return {"path": answer.json()[0], "meta": {"_type": "gradio.FileData"}}

    def find(self, elem_id: str, event: str) -> dict[str, Any]:
        part = next(part for part in self.config["components"] if part["props"].get("elem_id") == elem_id)
        return next(found for found in self.config["dependencies"] if [part["id"], event] in found["targets"])

    def start(self, elem_id: str, event: str, *values: Any, data: Any = None, **choices: Any) -> str:
        """Join the queue. ``values`` come first, None for the state; ``choices``: by label."""
        found = self.find(elem_id, event)
        given = list(values) + [self.defaults[part] for part in found["inputs"][len(values) :]]
        labels = {part["id"]: part["props"].get("label") for part in self.config["components"]}
        for place, part in enumerate(found["inputs"]):
            given[place] = choices.get(labels[part], given[place])
        body = {"fn_index": found["id"], "data": given, "session_hash": self.session, "event_data": data}
        answer = self.http.post("/gradio_api/queue/join", json=body)
        answer.raise_for_status()
        return str(answer.json()["event_id"])

    def read(self) -> Iterator[dict[str, Any]]:
        """Messages of what has been started."""
        with self.http.stream(
            "GET", "/gradio_api/queue/data", params={"session_hash": self.session}
        ) as lines:
            lines.raise_for_status()
            for line in lines.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "close_stream":
                        return
                    yield message

    def run(self, elem_id: str, event: str, *values: Any, data: Any = None, **choices: Any) -> list[Any]:
        """All outputs, one after another."""
        self.start(elem_id, event, *values, data=data, **choices)
        return list(self.outputs())

    def run_event(self, event: dict[str, Any], *values: Any) -> list[Any]:
        """All outputs of one of the configuration's events."""
        body = {"fn_index": event["id"], "data": list(values), "session_hash": self.session}
        self.http.post("/gradio_api/queue/join", json=body).raise_for_status()
        return list(self.outputs())

    def outputs(self) -> Iterator[list[Any]]:
        """What is shown, whole: the server sends the whole first, then what has changed."""
        shown: list[Any] | None = None
        for message in self.read():
            if message["msg"] == "process_generating":
                new = message["output"]["data"]
                if shown is not None:
                    new = [_changed(*two) for two in zip(shown, new, strict=True)]
                shown = copy.deepcopy(new)
                yield new
            elif message["msg"] == "process_completed":
                if not message["success"]:
                    raise PageError(str(message["output"]))
                if shown is None:
                    yield message["output"].get("data", [])

    def ask(self, question: str, *files: dict[str, Any], **choices: Any) -> list[Any]:
        return self.run("vt-box", "submit", {"text": question, "files": list(files)}, None, **choices)


class PageError(Exception):
    """The page answered an event with an error."""


def _changed(old: Any, edits: Any) -> Any:
    """Gradio's edits: what to do, where, and with what."""
    if not isinstance(edits, list) or not all(isinstance(edit, list) and len(edit) == 3 for edit in edits):
        return edits
    for action, path, value in edits:
        if not path:
            old = old + value if action == "append" else value
            continue
        place = old
        for step in path[:-1]:
            place = place[step]
        last = path[-1]
        if action == "append":
            place[last] += value
        elif action == "replace":
            place[last] = value
        elif action == "add":
            place.insert(last, value) if isinstance(place, list) else place.__setitem__(last, value)
        elif action == "delete":
            del place[last]
        else:
            raise ValueError(action)
    return old


def texts(chat: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Role and words of each message of a chat."""
    words = ["".join(part.get("text", "[file]") for part in message["content"]) for message in chat]
    return [(message["role"], text) for message, text in zip(chat, words, strict=True)]


def in_threads(*jobs: Any) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
