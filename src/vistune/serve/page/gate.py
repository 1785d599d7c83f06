"""What stands before Gradio: only the routes that the page needs, no foreign file, no foreign address."""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_API = "/gradio_api"
_FILE = f"{_API}/file="
_READ = re.compile(
    rf"/|/(config|theme\.css|robots\.txt|favicon\.ico|manifest\.json|logout)/?|/(assets|static|svelte)/.+"
    rf"|{_API}/(theme\.css|info|app_id|startup-events|queue/(data|status)|upload_progress|heartbeat/[\w-]+)/?"
)
_WRITE = re.compile(rf"/login/?|{_API}/(queue/join|upload|cancel|reset)/?")
_MOST_KEPT = 2_000_000_000  # bytes of uploads at a time, all users together

# Gradio writes scripts and styles into its page, and compiles templates of HTML. Nothing is loaded from, or
# sent to, elsewhere.
_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "media-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "connect-src 'self'",
        "object-src 'none'",
        "frame-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode("ascii")),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_ELSEWHERE = (b"cross-site", b"same-site")  # the browser's word for requests that other sites make


class Gate:
    """An ASGI application around Gradio's.

    Gradio also has routes that fetch addresses for the browser, keep runs, or show who uses it: all of
    those answer 404, and files are served from ``folder`` alone. It lets pages of other sites read and write
    in a visitor's name; here they cannot.
    """

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        self._app, self._folder = app, folder.resolve()
        self._open: set[asyncio.Task[None]] = set()

    def close(self) -> None:
        """End what is open: each browser's page keeps a connection that would hold up the server's end."""
        for task in self._open:
            task.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Raises:
        HTTPException: 404 not a route of the page, 403 written by another site's page, 507 too much has been
            uploaded.
        """
        from starlette.exceptions import HTTPException

        if scope["type"] != "http" or not self._passes(scope["method"], path_of(scope)):
            raise HTTPException(404)
        if scope["method"] == "POST" and dict(scope["headers"]).get(b"sec-fetch-site") in _ELSEWHERE:
            raise HTTPException(403, "Another site's page may not do this.")
        if path_of(scope).startswith(f"{_API}/upload") and scope["method"] == "POST" and self._is_full():
            raise HTTPException(507, "Too many pictures are kept at the moment. Try again later.")

        begun = ended = False

        async def guarded(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                given = message.get("headers", ())
                kept = (pair for pair in given if not pair[0].lower().startswith(b"access-control-"))
                message["headers"] = [*kept, *_HEADERS]
            ended = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)

        task = asyncio.ensure_future(_run(self._app, scope, receive, guarded))
        self._open.add(task)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if not task.cancelled():  # the server itself gave it up
                task.cancel()
                raise
            if not begun:
                raise HTTPException(503, "The server is shutting down.") from None
            if not ended:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._open.discard(task)

    def _passes(self, method: str, path: str) -> bool:
        if method == "POST":
            return bool(_WRITE.fullmatch(path))
        if method not in ("GET", "HEAD"):
            return False
        if path.startswith(_FILE):
            file = path[len(_FILE) :]
            return "\0" not in file and Path(os.path.realpath(file)).is_relative_to(self._folder)
        return bool(_READ.fullmatch(path))

    def _is_full(self) -> bool:
        kept = 0
        for folder, _, files in os.walk(self._folder):
            for file in files:
                try:
                    kept += os.lstat(os.path.join(folder, file)).st_size
                except FileNotFoundError:  # cleared away meanwhile
                    continue
        return kept > _MOST_KEPT


async def _run(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


def path_of(scope: Scope) -> str:
    """The path below the mount."""
    path, root = scope["path"], scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(f"{root}/") else path
