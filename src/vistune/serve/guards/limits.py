"""How much one request may ask of the server."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from vistune.errors import VistuneError

MOST_PIXELS = 100_000_000  # `vistune.data.images` decodes no larger picture


@dataclass(frozen=True)
class Limits:
    """What stands between strangers and the engine. Every figure is a most; what exceeds it is refused.

    Attributes:
        body_bytes: of a request's body. Base64 makes a picture a third longer.
        turns: messages of a conversation.
        question_characters: of one message's text, in Unicode code points.
        max_tokens: new tokens of an answer; a request that names no number gets this one.
        queue: requests that wait for one engine; a further one is answered 429.
        pictures: of a request, all its turns together.
        picture_bytes: of one picture's file, decoded from base64 or as sent by its server.
        pixels: width times height, of a request's pictures together; known from the headers, before a
            pixel is decoded. Three bytes each are held while the request is answered.
        remote: whether ``https:`` addresses of pictures are fetched at all. Others then choose what this
            machine connects to, though only to public addresses.
        remote_seconds: to fetch one remote picture, looking up names and redirects included.
        remote_redirects: that are followed for one remote picture; each is checked anew.

    Raises:
        VistuneError: a figure under which nothing could be served, or that would be ignored.
    """

    body_bytes: int = 20_000_000
    turns: int = 2_000
    question_characters: int = 100_000
    max_tokens: int = 2_048
    queue: int = 64
    pictures: int = 8
    picture_bytes: int = 10_000_000
    pixels: int = 50_000_000
    remote: bool = False
    remote_seconds: float = 10.0
    remote_redirects: int = 3

    def __post_init__(self) -> None:
        may_be_zero = {"queue", "pictures", "remote", "remote_redirects"}
        for entry in fields(self):
            value = getattr(self, entry.name)
            # `not >=` rather than `<`: it refuses nan too
            if not value >= 0 or (value == 0 and entry.name not in may_be_zero):
                least = "0 or more" if entry.name in may_be_zero else "more than 0"
                raise VistuneError(f"The limit {entry.name} is {value}; it must be {least}.")
        if self.pixels > MOST_PIXELS:
            raise VistuneError(
                f"The limit pixels is {self.pixels}; no picture of more than {MOST_PIXELS} is decoded. "
                "Set it to that or less."
            )


def parse_limits(pairs: Iterable[str], remote: bool = False) -> Limits:
    """The defaults with ``NAME=VALUE`` pairs in the place of some.

    Raises:
        VistuneError: no such limit, or a value that it cannot have.
    """
    free = {entry.name: type(getattr(Limits(), entry.name)) for entry in fields(Limits)}
    del free["remote"]
    given: dict[str, Any] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in free:
            raise VistuneError(f"--limit {pair!r}: expected NAME=VALUE of {', '.join(free)}.")
        try:
            given[name] = free[name](value.replace("_", ""))
        except ValueError as error:
            raise VistuneError(f"--limit {pair!r}: expected a number, found {value!r}.") from error
    ignored = sorted(name for name in given if name.startswith("remote_") and not remote)
    if ignored:
        raise VistuneError(f"--limit {ignored[0]} would be ignored without --remote-pictures.")
    return Limits(remote=remote, **given)
