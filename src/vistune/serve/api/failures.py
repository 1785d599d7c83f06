"""What is logged of a failure: what and where, not what anybody wrote."""

from __future__ import annotations

import logging
import traceback

from vistune.serve.api.errors import ClosedError
from vistune.serve.engine.engine import BadRequestError, BusyError, EngineError

logger = logging.getLogger("vistune.serve")


def log_failure(error: BaseException) -> None:
    """An engine's own words, or else the kind of error and its places: its message may quote a question."""
    if isinstance(error, BadRequestError | BusyError | ClosedError):
        return
    if isinstance(error, EngineError):
        logger.error("engine: %s", str(error)[:500])
        return
    places = "".join(traceback.format_tb(error.__traceback__))
    logger.error("%s\n%s", type(error).__name__, places.rstrip())
