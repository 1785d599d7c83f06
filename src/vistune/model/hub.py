"""Whether the hub can be asked. Its client tries for half a minute for each file before it gives up."""

from __future__ import annotations

import socket
import threading
import time
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

_PATIENCE = 4.0  # seconds, the look-up of the name included
_REMEMBERED = 60.0  # seconds; a network may come back


def host() -> str:
    """Return the hub's address, as ``HF_ENDPOINT`` or the default has it."""
    from huggingface_hub import constants

    return str(constants.ENDPOINT)


def reachable() -> bool:
    """Return whether the hub may be asked: not if ``HF_HUB_OFFLINE`` is set or nothing answers there."""
    from huggingface_hub import constants

    return not constants.HF_HUB_OFFLINE and _answers(host(), int(time.monotonic() / _REMEMBERED))


def settings(place: Any) -> dict[str, Any]:
    """Return what ``from_pretrained`` needs so that it does not wait: for hub names, if there is no network,
    only what was downloaded before is looked at."""
    return {"local_files_only": True} if isinstance(place, str) and not reachable() else {}


@lru_cache(maxsize=1)
def _answers(address: str, _: int) -> bool:
    parts = urlsplit(address)
    if parts.scheme in getproxies():
        return True  # the proxy is asked, and tells
    port = parts.port or (80 if parts.scheme == "http" else 443)
    answered = threading.Event()

    def ask() -> None:
        try:
            socket.create_connection((parts.hostname or "", port), _PATIENCE).close()
            answered.set()
        except OSError:
            pass

    # In a thread, as the look-up of a name knows no time limit.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return answered.is_set()
