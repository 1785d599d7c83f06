"""Chromium without a window, driven through its own protocol (https://chromedevtools.github.io)."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

_PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --hide-scrollbars "
    "--disable-component-update --disable-sync --disable-quic --remote-debugging-port=0 about:blank"
).split()


class Tab:
    """One tab.

    Attributes:
        asked: addresses that it fetched, data URIs left out.
        complaints: errors of scripts, of the policy, of loading; and dialogs that scripts opened.
    """

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._number = socket, 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self.asked: list[str] = []
        self.complaints: list[str] = []

    async def listen(self) -> None:
        async for raw in self._socket:
            message = json.loads(raw.data)
            if "id" in message:
                self._waiting.pop(message["id"]).set_result(message)
                continue
            self._note(message["method"], message["params"])

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            address = params["request"]["url"]
            self.asked += [] if address.startswith(("data:", "blob:")) else [address]
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"].get("exception", params))[:500])
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {params['message']}")

    async def do(self, method: str, **params: Any) -> Any:
        self._number += 1
        answer = self._waiting[self._number] = asyncio.get_running_loop().create_future()
        await self._socket.send_str(json.dumps({"id": self._number, "method": method, "params": params}))
        found = await asyncio.wait_for(answer, 60)
        assert "error" not in found, found
        return found["result"]

    async def js(self, code: str) -> Any:
        found = await self.do("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, code: str, seconds: float = 30) -> None:
        """Wait until the expression is true."""
        end = time.monotonic() + seconds
        while not await self.js(f"!!({code})"):
            assert time.monotonic() < end, f"{code}: {self.complaints}"
            await asyncio.sleep(0.1)

    async def open(self, address: str, ready: str) -> None:
        await self.do("Page.navigate", url=address)
        await self.until(f"document.querySelector({json.dumps(ready)})", 60)

    async def click(self, selector: str) -> None:
        await self.js(f"document.querySelector({json.dumps(selector)}).click()")

    async def write(self, selector: str, text: str) -> None:
        await self.js(f"document.querySelector({json.dumps(selector)}).focus()")
        await self.do("Input.insertText", text=text)

    async def enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
            await self.do("Input.dispatchKeyEvent", type=kind, text="\r" if kind == "keyDown" else "", **key)

    async def choose_file(self, selector: str, file: Path) -> None:
        root = (await self.do("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.do("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.do("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    async def size(self, width: int, height: int) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        await self.do("Emulation.setDeviceMetricsOverride", **screen)

    async def scheme(self, name: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": name}]
        await self.do("Emulation.setEmulatedMedia", features=features)

    async def photograph(self, file: Path) -> None:
        file.write_bytes(base64.b64decode((await self.do("Page.captureScreenshot"))["data"]))


def is_there() -> bool:
    return _PROGRAM is not None


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Tab]:
    """A browser whose profile lies in ``folder``."""
    assert _PROGRAM
    command = [_PROGRAM, f"--user-data-dir={folder}", *_FLAGS]
    program = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        address = await asyncio.wait_for(asyncio.to_thread(_address, program), 60)
        port = address.split(":")[2].split("/")[0]
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [page for page in await answer.json() if page["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                listening = asyncio.create_task(tab.listen())
                for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
                    await tab.do(f"{domain}.enable")
                yield tab
                await tab.do("Browser.close")
                listening.cancel()
    finally:
        program.terminate()
        program.wait(20)


def _address(program: subprocess.Popen[str]) -> str:
    assert program.stderr
    for line in program.stderr:
        if line.startswith("DevTools listening on "):
            return line.split()[-1]
    raise AssertionError("the browser did not start")
