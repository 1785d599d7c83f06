"""Where an OpenAI-compatible server is, and what it says of itself."""

from __future__ import annotations

import ipaddress
import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import openai

from vistune.errors import VistuneError

KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = "none"  # the client library wants one
_ASK = 10.0  # seconds for what the server says of itself


@dataclass(frozen=True)
class Server:
    """Where it is, and which of its models is asked.

    Attributes:
        address: with ``/v1``.
        context: tokens that the model reads at most; None where the server does not say.
    """

    address: str
    model: str
    context: int | None = None


def find_server(base_url: str, model: str | None = None) -> Server:
    """Ask a server for its models.

    Raises:
        VistuneError: nothing answers there, the key is refused, or the model cannot be told.
    """
    address = read_address(base_url)
    http = openai.DefaultHttpxClient(trust_env=not is_here(address))
    client = openai.OpenAI(
        api_key=read_key() or NO_KEY, base_url=address, max_retries=1, timeout=_ASK, http_client=http
    )
    try:
        with client:
            offered = {entry.id: entry for entry in client.models.list()}
    except openai.NotFoundError:
        offered = {}  # not every server lists its models
    except (openai.OpenAIError, json.JSONDecodeError) as error:
        raise VistuneError(_why_not_found(error, address)) from None
    if model is None and len(offered) != 1:
        raise VistuneError(
            f"{address}: serves {', '.join(sorted(offered)[:10]) or 'no model that it tells of'}. "
            "Name one: `vistune serve --base-url … MODEL`."
        )
    if model is not None and offered and model not in offered:
        raise VistuneError(f"{address}: has no model {model!r}; it has {', '.join(sorted(offered)[:10])}.")
    model = model or next(iter(offered))
    return Server(address, model, _context(offered.get(model)))


def read_address(base_url: str) -> str:
    """``base_url`` with ``/v1`` where it names no path.

    Raises:
        VistuneError: it is no address of HTTP, or has a password in it.
    """
    try:
        url = urlsplit(base_url.strip())
        named, _ = url.hostname, url.port
    except ValueError:
        named = None
    if not named or url.scheme not in ("http", "https") or url.query or url.fragment:
        raise VistuneError("--base-url: expected an address such as http://127.0.0.1:8000/v1.")
    if url.username or url.password:
        raise VistuneError(
            f"--base-url: leave the name and the password out, and set {KEY_VARIABLE} to the key."
        )
    return f"{url.scheme}://{url.netloc}{url.path.rstrip('/') or '/v1'}"


def read_key() -> str:
    """The key, or nothing.

    Raises:
        VistuneError: the variable holds no key.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise VistuneError(f"{KEY_VARIABLE} holds characters that no key has. Set it again.")
    return key


def is_here(address: str) -> bool:
    """Whether it is this machine, to which no proxy of the environment leads."""
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def kind_of(error: Exception) -> str:
    """What happened, where the server answered with no status."""
    if isinstance(error, openai.APITimeoutError):
        return "did not answer in time"
    if isinstance(error, openai.APIConnectionError):
        return "no connection, or it broke off"
    return "answered something that is not OpenAI's API, or failed midway"


def hint_of(status: int, model: str | None) -> str:
    """What may help, to end a sentence with."""
    if status in (401, 403):
        return f"; set the environment variable {KEY_VARIABLE} to its key."
    if status == 404:
        return f"; it has no chat completions there, or no model {model!r}." if model else "."
    return " (no credit left)." if status == 429 else "."


def _why_not_found(error: Exception, address: str) -> str:
    if isinstance(error, openai.APIStatusError):
        return f"{address}/models: answered {error.status_code}{hint_of(error.status_code, None)}"
    return f"{address}/models: {kind_of(error)}. Start the server first, or mend --base-url."


def _context(entry: Any) -> int | None:
    """As vLLM and SGLang, llama.cpp, and OpenRouter tell it."""
    told = (getattr(entry, "model_extra", None) or {}) if entry is not None else {}
    meta = told.get("meta")
    for value in (
        told.get("max_model_len"),
        meta.get("n_ctx") if isinstance(meta, dict) else None,
        told.get("context_length"),
    ):
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return None
