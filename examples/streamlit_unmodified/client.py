"""Visitors of a Streamlit app, in a real browser: each opens the page, counts, uploads a file, and leaves."""

from __future__ import annotations

import asyncio
import re
import secrets
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from examples.harness import Example
from examples.streamlit_unmodified.browser import NAMES, Browser, PageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from examples.harness import Session

_PAUSE = 0.1
_CLICKS = 4  # of a visit
_SHOWN = 20.0  # seconds in which a page shows what it is told to; longer than a lease
_AGAIN = 3.0  # seconds between two clicks if the first shows nothing
_ADD = "[...document.querySelectorAll('button')].find(each => each.innerText.trim() === 'add').click()"
_STATE = re.compile(r"count=(\d+) size=(\d+) pid=(\d+)")


async def visit(url: str, session: Session) -> None:
    """Visit the page again and again, until cancelled."""
    async with Browser() as browser:
        while True:
            try:
                await browser.show(url)
                await _use(browser, session)
            except (PageError, TimeoutError) as error:
                session.failed(f"{type(error).__name__}: {str(error)[:80]}", safe=False)
                await asyncio.sleep(_PAUSE)


async def _use(browser: Browser, session: Session) -> None:
    """Count, and upload a file; what was shown has to stay."""
    count = 0
    if await _shown(browser, (0, 0), (0, 0)) is None:
        raise PageError("the page shows nothing")
    for _ in range(_CLICKS):
        await asyncio.sleep(_PAUSE)
        found = await _shown(browser, (count, 0), (count + 1, 0), lambda: browser.run(_ADD))
        if not _looked(session, found):
            return
        count = found[0] if found else 0
    file = Path(__file__)
    upload = (count, file.stat().st_size)  # a PUT to a path with the id of the session
    _looked(session, await _shown(browser, (count, 0), upload, lambda: browser.choose("input[type=file]", file)))


def _looked(session: Session, found: tuple[int, int, int] | None) -> bool:
    session.answered()
    session.looked(kept=found is not None, holder=found[2] if found else 0)
    return found is not None


async def _shown(
    browser: Browser,
    before: tuple[int, int],
    after: tuple[int, int],
    act: Callable[[], Awaitable[object]] | None = None,
) -> tuple[int, int, int] | None:
    """Do something until the page shows what comes of it; ``None`` if it shows less than before, or nothing new.

    What is clicked while the page has no connection is dropped by it, so it is clicked again.
    """
    loop = asyncio.get_running_loop()
    until, again, less = loop.time() + _SHOWN, 0.0, 0.0
    while (now := loop.time()) < until:
        if act is not None and now >= again:
            await act()
            again = now + _AGAIN
        text = _STATE.search(await browser.text())
        if text is not None:
            count, size, pid = int(text[1]), int(text[2]), int(text[3])
            if count >= after[0] and size == after[1]:
                return count, size, pid
            less = (less or now) if (count, size) < before else 0.0
            if less and now - less > _AGAIN / 2:
                return None
        await asyncio.sleep(_PAUSE / 2)
    return None


EXAMPLES = (
    Example(
        name="Streamlit under `run`",
        folder="streamlit_unmodified",
        title="st.session_state and uploads in an unmodified app, in Chromium, three copies behind nginx",
        command=(
            *("streamlit", "run", "app.py", "--server.port", "{port}", "--server.address", "127.0.0.1"),
            *("--server.headless", "true", "--browser.gatherUsageStats", "false"),
        ),
        uid="signed-cookie:sr,secure=no,ttl=1800",
        user=visit,
        users=3,
        needs=("streamlit", "uvicorn", "httptools", "websockets"),
        programs=(next(filter(shutil.which, NAMES), NAMES[0]),),
        environment={"STATEFUL_ROUTE_COOKIE_SECRETS": secrets.token_hex()},
    ),
)
