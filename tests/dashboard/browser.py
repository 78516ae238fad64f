"""The page as somebody sees it: in a headless Chromium, with what goes wrong in it."""

from __future__ import annotations

import base64
import json
import shutil
from typing import TYPE_CHECKING, Any

from examples.streamlit_unmodified.browser import NAMES, Browser
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

IS_THERE = any(map(shutil.which, NAMES))

# What a server that has ended does not send is an error without a message, and none of the page.
_LISTEN = """
window.wrong = [];
addEventListener("error", (event) => event.message && wrong.push(event.message));
addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => wrong.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


class Page(Browser):
    """A browser that shows the page of the dashboard."""

    async def open(self, url: str, *, width: int = 1440, height: int = 1000, dark: bool = False) -> None:
        """Show the page in a window of that size, in the light or the dark."""
        await self.show("about:blank")
        await self._of_page("Page.enable")
        await self._of_page("Page.addScriptToEvaluateOnNewDocument", source=_LISTEN)
        await self._of_page(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self._of_page("Emulation.setEmulatedMedia", features=[scheme])
        await self._of_page("Page.navigate", url=url)

    async def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write a screenshot, of the window or of the whole page."""
        taken = await self._of_page("Page.captureScreenshot", captureBeyondViewport=whole, **await self._clip(whole))
        path.write_bytes(base64.b64decode(taken["data"]))

    async def _clip(self, whole: bool) -> dict[str, Any]:
        if not whole:
            return {}
        size = (await self._of_page("Page.getLayoutMetrics"))["cssContentSize"]
        return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}

    async def shows(self, what: str, within: float = 15.0) -> None:
        """Wait until the page shows a text."""
        await self.holds(f"document.body.innerText.includes({json.dumps(what)})", within)

    async def holds(self, script: str, within: float = 15.0) -> None:
        """Wait until a script in the page says that it is so."""

        async def fact() -> bool:
            return bool(await self.run(script))

        await eventually(fact, within)

    async def click(self, selector: str) -> None:
        """Click what the selector names."""
        assert await self.run(f"!!document.querySelector({json.dumps(selector)})"), selector
        await self.run(f"document.querySelector({json.dumps(selector)}).click()")

    async def type(self, selector: str, text: str) -> None:
        """Put a text into a field, by the keyboard."""
        await self.run(
            f"(() => {{ const it = document.querySelector({json.dumps(selector)}); it.focus(); it.select?.() }})()"
        )
        await self._of_page("Input.insertText", text=text)

    async def press(self, key: str, code: int, text: str = "") -> None:
        """Press a key."""
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        await self._of_page("Input.dispatchKeyEvent", type="keyDown", **about)
        await self._of_page("Input.dispatchKeyEvent", type="keyUp", key=key, code=key, windowsVirtualKeyCode=code)

    async def wrong(self) -> list[str]:
        """Return the errors of scripts, and what the policy has stopped."""
        found: list[str] = await self.run("window.wrong")
        return found

    async def _of_page(self, method: str, **parameters: Any) -> dict[str, Any]:
        return await self._do(method, self._page, **parameters)
