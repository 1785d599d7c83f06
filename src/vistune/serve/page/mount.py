"""The page beside the API in one process, made when there is time for it."""

from __future__ import annotations

import asyncio
import hmac
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vistune.errors import VistuneError
from vistune.serve.guards.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import Receive, Scope, Send

    from vistune.serve.page.events import Look

_HEAD_START = 5.0  # seconds that the API has for itself, unless somebody visits the page before


def mount_page(
    app: FastAPI,
    *,
    api_url: str,
    models: Mapping[str, Mapping[str, Any]],
    votes: bool = False,
    key: str | None = None,
    looks: Mapping[str, Look] | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """Mount the page at ``/``. Call it after all other routes: it takes what is left.

    ``app.state.page.close()`` ends the connections that open pages keep; call it as the server begins to end.
    Gradio takes seconds to import, so this comes some seconds after the start, or with the first visit.

    Args:
        api_url: the server's own address, with ``/v1``.
        models: names and cards, as the API serves them.
        votes: the operator stores votes; the API takes them at ``/v1/votes``.
        key: the API's. Users of the page log in with it as the password, under any name; then the page
            asks the API in their place. It never reaches a browser.
        looks: by model, what tells what it looked at: of OpenAI's messages and the answer to them.
        limits: the API's.

    Raises:
        VistuneError: Gradio is not installed, or there is no model.
    """
    if find_spec("gradio") is None:
        raise VistuneError("The page needs Gradio: pip install 'vistune[serve]'.")
    if not models:
        raise VistuneError("The page needs at least one model to talk to.")
    limits = limits or Limits()

    def build(folder: Path) -> tuple[FastAPI, Any]:
        return _build(folder, api_url, models, votes, key, looks or {}, limits)

    page = _LatePage(build)
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(application: FastAPI) -> AsyncIterator[Any]:
        async with inner(application) as state, page.alive():
            yield state

    app.router.lifespan_context = lifespan
    app.mount("/", page, name="page")
    app.state.page = page
    return app


class _LatePage:
    """An ASGI application that is made in a thread, on the first request or a while after the start."""

    def __init__(self, build: Callable[[Path], tuple[FastAPI, Any]]) -> None:
        self._build = build
        self._wanted, self._over = asyncio.Event(), asyncio.Event()
        self._ready: asyncio.Future[Any] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from starlette.exceptions import HTTPException

        if self._ready is None:
            raise RuntimeError("The page is asked before its application has started.")
        self._wanted.set()
        if self._over.is_set():
            raise HTTPException(503, "The server is shutting down.")
        await (await asyncio.shield(self._ready))(scope, receive, send)

    def close(self) -> None:
        """No request is taken any more, and those that are open end."""
        self._over.set()
        if self._ready and self._ready.done() and not self._ready.cancelled() and not self._ready.exception():
            self._ready.result().close()

    @asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """As long as the application is."""
        self._ready = asyncio.get_running_loop().create_future()
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        folder = Path(tempfile.mkdtemp(prefix="vistune-page-"))  # for this user's eyes only
        task = asyncio.create_task(self._live(folder))
        try:
            yield
        finally:
            self._over.set()
            self._wanted.set()
            await task
            shutil.rmtree(folder, ignore_errors=True)

    async def _live(self, folder: Path) -> None:
        """One task from beginning to end: what a task has entered, it must leave itself."""
        assert self._ready is not None
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), _HEAD_START)
        if self._over.is_set():
            self._ready.cancel()
            return
        try:
            holder, gate = await asyncio.to_thread(self._build, folder)
            async with holder.router.lifespan_context(holder):
                self._ready.set_result(gate)
                await self._over.wait()
        except Exception as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)  # whoever visits the page hears of it; the API goes on


def _build(
    folder: Path,
    api_url: str,
    models: Mapping[str, Mapping[str, Any]],
    votes: bool,
    key: str | None,
    looks: Mapping[str, Look],
    limits: Limits,
) -> tuple[FastAPI, Any]:
    """Gradio's application in one of its own, and the gate before it. Takes seconds."""
    # Read by Gradio as it is imported, or as its components are made
    os.environ.update(
        GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=str(folder), HF_HUB_DISABLE_TELEMETRY="1"
    )
    import gradio as gr
    from fastapi import FastAPI

    from vistune.serve.page.ask import connect
    from vistune.serve.page.events import Events
    from vistune.serve.page.gate import Gate
    from vistune.serve.page.layout import lay_out, theme
    from vistune.serve.page.samples import paint_samples

    samples = paint_samples(folder)
    events = Events(connect(api_url, key), samples, looks, limits)
    blocks = lay_out(events, models, samples, votes, look=bool(looks))
    holder = FastAPI(openapi_url=None)
    gr.mount_gradio_app(
        holder,
        blocks,
        path="/",
        footer_links=[],
        run_history=False,
        auth=_login(key) if key else None,
        auth_message="The password is the server's API key. The name is yours to choose." if key else None,
        allowed_paths=[],
        show_error=False,
        max_file_size=limits.picture_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css_paths=Path(__file__).with_name("page.css"),
    )
    blocks.has_launched = True  # else Gradio would take any file of this machine for an upload
    return holder, Gate(holder, folder)


def _login(key: str) -> Callable[[str, str], bool]:
    def right(_: str, password: str) -> bool:
        return hmac.compare_digest(password.encode(), key.encode())

    return right
