"""What can go wrong with one HTTP request, and what follows from it."""

from __future__ import annotations

import email.utils
import time

import openai

from vistune.errors import VistuneError
from vistune.llm.request import BadReplyError

_RETRIED = (408, 409, 425)  # statuses below 429 that pass
_LONGEST_PAUSE = 3600.0  # seconds that are waited at most for an endpoint that asks for them


class EndpointError(VistuneError):
    """The endpoint is down, or refuses every request: the run stops."""


class RequestRefusedError(Exception):
    """The endpoint refuses this request for what it holds; asking again would not help."""


class PassingFault(Exception):  # noqa: N818 - it is no error until it stays
    """Something that may be gone on the next attempt.

    Attributes:
        wait: seconds that the endpoint asks to wait; 0 where it says nothing.
        alive: the endpoint is up, it only wants less.
    """

    def __init__(self, message: str, wait: float = 0.0, alive: bool = False) -> None:
        super().__init__(message)
        self.wait, self.alive = wait, alive


def to_fault(error: Exception, base_url: str, key: str = "") -> Exception:
    """The kind of fault that an error of the client library, or a body that is no reply, is.

    Args:
        key: is blotted out of the message, should the endpoint repeat it.
    """
    cause = str(error.__cause__ or "")
    if isinstance(error, openai.APITimeoutError) and "connect" not in cause.lower():
        return PassingFault("timed out")
    what = str(error.__cause__ or error) if isinstance(error, openai.APIConnectionError) else str(error)
    what = what.replace(key, "[key]") if key else what
    if isinstance(error, openai.APIConnectionError):
        return PassingFault(f"no connection ({what})")
    if isinstance(error, BadReplyError):
        return PassingFault(what)
    if not isinstance(error, openai.APIStatusError):
        return EndpointError(f"{base_url}: {what}")
    what = what.removeprefix(f"Error code: {error.status_code}").removeprefix(" - ")
    status, text = error.status_code, f"HTTP {error.status_code}" + (f": {what[:200]}" if what else "")
    wait = retry_after(error.response.headers.get("retry-after"))
    if wait > _LONGEST_PAUSE:
        return EndpointError(
            f"{base_url}: asks to wait for {wait / 60:.0f} minutes ({text}). "
            "Run the same command again then: all that was answered is kept."
        )
    if status in (401, 403):
        return EndpointError(
            f"{base_url}: the key was refused ({text}). Check the environment variable OPENAI_API_KEY."
        )
    if status == 404:
        return EndpointError(f"{base_url}: no such endpoint or model ({text}). Check --base-url and --model.")
    if status == 429:
        if error.code == "insufficient_quota":
            return EndpointError(f"{base_url}: the account has no credit left ({text}).")
        return PassingFault(text, wait, alive=True)
    if status in _RETRIED or status >= 500:
        return PassingFault(text, wait)
    return RequestRefusedError(text)


def retry_after(header: str | None) -> float:
    """Seconds to wait, of a ``Retry-After`` header in seconds or as a date; 0 where there is none."""
    if not header:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0
