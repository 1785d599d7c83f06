"""``vistune serve``: engines, guards, API and page in one process."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from vistune.errors import VistuneError
from vistune.progress import say
from vistune.serve.api.addresses import bind, is_loopback, url_of
from vistune.serve.options import (
    KEY_VARIABLE,
    ServeOptions,
    named,
    options_of,
    read_key,
    refuse_ignored,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

    from vistune.serve.engine.engine import Engine

__all__ = ["ServeOptions", "options_of", "serve"]

_GRACE, _BACKSTOP = 10.0, 5.0  # seconds that answers get to end by themselves, and to be cancelled
_LAST_WORDS = 0.3  # seconds in which a page shows what has come


def serve(options: ServeOptions) -> None:
    """Serve until Ctrl-C or a polite kill; then answers get some seconds to end.

    Raises:
        VistuneError: nothing can be served so; told before models are loaded where that can be.
    """
    refuse_ignored(options)
    models = named(options.checkpoints)
    key = read_key()
    if key is None and not options.allow_open and not is_loopback(options.host):
        raise VistuneError(
            f"Whoever reaches {options.host} could use this server. Set {KEY_VARIABLE} to a key that clients "
            "must send, or pass --allow-open."
        )
    _need_extra()
    with bind(options.host, options.port) as listener:
        engines: dict[str, Engine] = {}
        try:
            _load(models, options, engines)
            _run(engines, options, key, listener)
        finally:
            if engines:  # loading or starting was cut short
                asyncio.run(_close(engines))


def _need_extra() -> None:
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise VistuneError(f"Serving needs {error.name}: pip install 'vistune[serve]'.") from error


def _load(models: Mapping[str, str], options: ServeOptions, engines: dict[str, Engine]) -> None:
    """Put an engine into ``engines`` for each model."""
    if options.base_url is not None:
        from vistune.serve.engine.remote import Remote, RemoteOptions

        most = RemoteOptions(in_flight=options.rows + options.limits.queue)
        for name, model in models.items() or [(None, None)]:
            remote = Remote.connect(options.base_url, model, name, most)
            engines[remote.name] = remote
    elif options.engine == "built-in":
        from vistune.serve.engine.built_in import BuiltIn, BuiltInOptions

        built_in = BuiltInOptions(
            options.rows, options.limits.queue, options.cache, options.dtype, options.int8
        )
        for name, checkpoint in models.items():
            engines[name] = BuiltIn.load(name, checkpoint, built_in)
    else:
        from vistune.serve.engine.external import External, ExternalOptions

        external = ExternalOptions(
            options.engine, options.engine_arguments, in_flight=options.rows + options.limits.queue
        )
        for name, checkpoint in models.items():
            engines[name] = External.start(name, checkpoint, external)


def _run(engines: dict[str, Engine], options: ServeOptions, key: str | None, listener: socket.socket) -> None:
    import uvicorn

    url = url_of(listener)
    app = _create(engines, options, key, url)
    _set_up_log()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # it has the query strings; ours has not
        server_header=False,
        timeout_graceful_shutdown=int(_GRACE + _BACKSTOP),
        ws="none",
    )

    class Server(uvicorn.Server):
        """Ends in an orderly way."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            say(f"{', '.join(engines)} at {url}  (API: {url}/v1, Ctrl-C ends)")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            ending = asyncio.ensure_future(_wind_down(app))
            try:
                await super().shutdown(sockets)
            finally:
                ending.cancel()
                await _close(engines)

    with _signals_spent():
        Server(config).run(sockets=[listener])


async def _wind_down(app: FastAPI) -> None:
    """Answers under way get some time; then they, and what open pages keep connected, end."""
    app.state.desk.close()
    await app.state.desk.idle(_GRACE)
    app.state.desk.end()
    if page := getattr(app.state, "page", None):
        await asyncio.sleep(_LAST_WORDS)
        page.close()


def _create(engines: dict[str, Engine], options: ServeOptions, key: str | None, url: str) -> FastAPI:
    from vistune.serve.api.app import create_app
    from vistune.serve.api.votes import Votes

    votes = None if options.store_votes is None else Votes(options.store_votes)
    app = create_app(
        engines, options.limits, key, votes=votes, at_once=options.rows, log_content=options.log_content
    )
    if options.page:
        from vistune.serve.page.mount import mount_page

        mount_page(
            app,
            api_url=f"{url}/v1",
            models={name: engine.card for name, engine in engines.items()},
            votes=votes is not None,
            key=key,
            looks=_looks(engines, options),
            limits=options.limits,
        )
    return app


def _looks(
    engines: Mapping[str, Engine], options: ServeOptions
) -> dict[str, Callable[[list[dict[str, Any]], str], Awaitable[Any]]]:
    if options.base_url is not None or options.engine != "built-in":
        return {}
    from vistune.serve.api.looking import looker
    from vistune.serve.engine.built_in import BuiltIn

    return {
        name: looker(engine, options.limits)
        for name, engine in engines.items()
        if isinstance(engine, BuiltIn)
    }


async def _close(engines: dict[str, Engine]) -> None:
    for name in list(engines):
        await engines.pop(name).close()


def _set_up_log() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("vistune.serve")
    logger.setLevel(logging.INFO)
    logger.handlers = [handler]
    logger.propagate = False


@contextmanager
def _signals_spent() -> Iterator[None]:
    """The web server raises again, once it has ended, the signal that ended it: to nobody."""

    def spent(number: int, frame: FrameType | None) -> None:
        return None

    before = {number: signal.signal(number, spent) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
