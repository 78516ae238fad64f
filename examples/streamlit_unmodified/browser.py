"""A headless Chromium, as far as the example needs one: by its DevTools protocol, over a WebSocket."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from websockets.asyncio.client import ClientConnection, connect

if TYPE_CHECKING:
    from types import TracebackType

NAMES = ("chromium", "chromium-browser", "google-chrome")
_STARTS_WITHIN = 30.0
_ANSWERS_WITHIN = 10.0
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
_LOOK = 0.05
_LINES = 2  # of the file in which it says where it listens: the port and a path


class PageError(Exception):
    """The browser does not do what it is told, or the page does not show in time what it should."""


class Browser:
    """A browser of its own, which ends with the block; it shows one page at a time."""

    def __init__(self) -> None:
        """Describe it; it is not started yet."""
        self._folder = tempfile.mkdtemp(prefix="browser-")
        self._numbers = itertools.count(1)
        self._stack = contextlib.AsyncExitStack()
        self._socket: ClientConnection
        self._context: str | None = None
        self._page: str | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(shutil.rmtree, self._folder, ignore_errors=True)
            binary = next(filter(None, map(shutil.which, NAMES)), NAMES[0])
            process = await asyncio.create_subprocess_exec(
                binary,
                *_OPTIONS,
                f"--user-data-dir={self._folder}",
                "--remote-debugging-port=0",
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
            )
            stack.push_async_callback(process.wait)
            stack.callback(_kill, process)
            where = await self._address()
            self._socket = await stack.enter_async_context(connect(where, max_size=None, proxy=None))
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _address(self) -> str:
        file = Path(self._folder) / "DevToolsActivePort"
        async with asyncio.timeout(_STARTS_WITHIN):
            while True:
                lines = file.read_text().splitlines() if file.exists() else []
                if len(lines) == _LINES:
                    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
                await asyncio.sleep(_LOOK)

    async def _do(self, method: str, page: str | None = None, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": page} if page else {})
        try:
            async with asyncio.timeout(_ANSWERS_WITHIN):
                await self._socket.send(json.dumps(message))
                while (answer := json.loads(await self._socket.recv())).get("id") != number:
                    pass  # events
        except TimeoutError:
            raise PageError(f"{method}: no answer") from None
        if "error" in answer:
            raise PageError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    async def show(self, url: str) -> None:
        """Show a page, as to somebody who has never been there."""
        if self._context is not None:
            await self._do("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = (await self._do("Target.createBrowserContext"))["browserContextId"]
        target = (await self._do("Target.createTarget", url=url, browserContextId=self._context))["targetId"]
        self._page = (await self._do("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]

    async def run(self, script: str) -> Any:
        """Return what a script in the page returns."""
        result = await self._do("Runtime.evaluate", self._page, expression=script, returnByValue=True)
        return result["result"].get("value")

    async def choose(self, selector: str, path: Path) -> None:
        """Choose a file in an input."""
        root = (await self._do("DOM.getDocument", self._page))["root"]["nodeId"]
        node = (await self._do("DOM.querySelector", self._page, nodeId=root, selector=selector))["nodeId"]
        await self._do("DOM.setFileInputFiles", self._page, files=[str(path)], nodeId=node)

    async def text(self) -> str:
        """Return what the page shows."""
        return str(await self.run("document.body ? document.body.innerText : ''"))


def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
