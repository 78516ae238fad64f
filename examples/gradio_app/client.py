"""Visitors of the Gradio page, by Gradio's own client for Python."""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import httpx
from gradio_client import Client
from gradio_client.exceptions import AppError
from gradio_client.utils import QueueError

from examples.harness import Example

if TYPE_CHECKING:
    from examples.harness import Session

_PAUSE = 0.1  # seconds between two notes
_RESULT = 8.0  # seconds; longer than a lease
_NOTES = 10  # of a visit


async def visit(url: str, session: Session) -> None:
    """Visit the page again and again, until cancelled."""
    while True:
        try:
            client = await _in_thread(lambda: Client(url, verbose=False, analytics_enabled=False))
        except (httpx.HTTPError, ValueError) as error:
            session.failed(f"the page: {type(error).__name__}: {error}")
            await anyio.sleep(_PAUSE)
            continue
        try:
            await _write(client, session)
        finally:
            await _in_thread(client.close)  # takes a second; if cancelled, it ends by itself


async def _write(client: Client, session: Session) -> None:
    """Write notes, and look whether all that were confirmed are there."""
    confirmed: set[str] = set()
    for number in range(_NOTES):
        await anyio.sleep(_PAUSE)
        text = f"note {number}"
        try:
            answer = await _in_thread(lambda text=text: client.submit(text, api_name="/note").result(timeout=_RESULT))
        except (AppError, CancelledError, KeyError, ValueError) as error:  # the server does not know the session
            session.looked(kept=False)
            session.failed(f"{type(error).__name__}: {str(error)[:80]}", safe=False)
            return
        except TimeoutError:  # it waits for a result that another process has
            session.looked(kept=False)
            session.failed("no result", safe=False)
            return
        except (httpx.HTTPError, QueueError) as error:  # the client takes every 503 for a queue that is full
            session.failed(f"{type(error).__name__}: {error}", safe=False)  # a call is a POST
            continue
        session.answered()
        confirmed.add(text)
        session.looked(kept=confirmed <= set(answer["notes"]), holder=answer["pid"])
        confirmed &= set(answer["notes"])


async def _in_thread(work: Any) -> Any:
    """Do what blocks in a thread; one that is cancelled is left to end by itself."""
    return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)


EXAMPLES = (
    Example(
        name="Gradio",
        folder="gradio_app",
        title="gr.State, three replicas behind nginx",
        user=visit,
        users=6,
        needs=("gradio",),
        environment={"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_HEARTBEAT_INTERVAL": "1"},
    ),
)
