"""Pictures from the web, for operators who allow them: public servers only, little, and soon."""

from __future__ import annotations

import asyncio
import re
import ssl

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from vistune import __version__
from vistune.serve.engine.engine import BadRequestError
from vistune.serve.guards.addresses import NotPublicError, PublicResolver
from vistune.serve.guards.formats import MEDIA_TYPES, media_type
from vistune.serve.guards.limits import Limits

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK = 65_536
_MOST_CHARACTERS = 4_096  # of an address; signed ones are long
# Two labels at least, and a last one that is no number: each way to write an IPv4 address ends in one
_HOST = re.compile(
    r"(?=.{1,253}\Z)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z][a-z0-9-]{0,61}[a-z0-9]"
)
_UNREADABLE = re.compile(r"[\x00-\x20\x7f\\\ud800-\udfff]")  # what programs read differently


async def fetch_remote(
    url: str,
    limits: Limits,
    resolver: AbstractResolver | None = None,
    tls: ssl.SSLContext | None = None,
) -> bytes:
    """The file behind an ``https:`` address, of a picture's media type; whether it is one, decoding shows.

    Args:
        resolver: looks names up; its answers are checked. The machine's own by default.
        tls: whom to trust. The machine's own authorities by default.

    Raises:
        BadRequestError: an address that is not allowed, at first or after a redirect; a server that
            cannot be reached, is too slow, or sends too much, or something else.
    """
    try:
        return await asyncio.wait_for(_follow(url, limits, resolver, tls), limits.remote_seconds)
    except BadRequestError:
        raise
    except NotPublicError as error:
        raise _refusal("its server is not on the public internet") from error
    except (asyncio.TimeoutError, TimeoutError) as error:
        raise _refusal(f"it took longer than {limits.remote_seconds:g} seconds") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:  # ValueError: of headers it cannot read
        raise _refusal("its server could not be reached, or did not keep to HTTPS") from error


async def _follow(
    url: str, limits: Limits, resolver: AbstractResolver | None, tls: ssl.SSLContext | None
) -> bytes:
    place = _checked(url)
    async with _session(resolver, tls) as session:
        for _ in range(limits.remote_redirects + 1):
            async with session.get(place, allow_redirects=False) as answer:
                if answer.status not in _REDIRECTS:
                    return await _body(answer, limits)
                place = _checked(answer.headers.get("Location", ""), place)
    raise _refusal(f"it redirects more than {limits.remote_redirects} times")


def _session(resolver: AbstractResolver | None, tls: ssl.SSLContext | None) -> aiohttp.ClientSession:
    """No proxies, netrc, cookies, kept connections or unpacking; ``fetch_remote`` keeps the time."""
    connector = aiohttp.TCPConnector(
        resolver=PublicResolver(resolver), use_dns_cache=False, force_close=True, ssl=tls or True
    )
    return aiohttp.ClientSession(
        connector=connector,
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        headers={
            "User-Agent": f"vistune/{__version__}",
            "Accept": ", ".join(sorted(set(MEDIA_TYPES.values()))),
            "Accept-Encoding": "identity",
        },
    )


def _checked(text: str, base: URL | None = None) -> URL:
    """The very object that is asked for, so that the check and the request read it alike."""
    if len(text) > _MOST_CHARACTERS or _UNREADABLE.search(text) or not text:
        raise _refusal("its address is not a plain https: address")
    try:
        url = base.join(URL(text)) if base else URL(text)
        host, port, authority = url.raw_host or "", url.port, url.raw_authority
    except ValueError as error:
        raise _refusal("its address is not a plain https: address") from error
    if url.scheme != "https":
        raise _refusal("only https: addresses are fetched")
    if "@" in authority:
        raise _refusal("its address holds a user's name")
    if port != 443:
        raise _refusal("only port 443 is allowed")
    if not _HOST.fullmatch(host):
        raise _refusal("its server must be given by a full name, and not by a number")
    return url


async def _body(answer: aiohttp.ClientResponse, limits: Limits) -> bytes:
    if answer.status != 200:
        raise _refusal(f"its server answered {answer.status}")
    if media_type(answer.content_type) is None:
        raise _refusal("its server does not call it a picture")
    if answer.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise _refusal("its server packed it, unasked")
    too_large = _refusal(f"it is larger than {limits.picture_bytes} bytes")
    if (answer.content_length or 0) > limits.picture_bytes:
        raise too_large
    body = bytearray()
    async for chunk in answer.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) > limits.picture_bytes:
            raise too_large
    return bytes(body)


def _refusal(why: str) -> BadRequestError:
    return BadRequestError(f"A remote picture cannot be used: {why}.", param="messages")
