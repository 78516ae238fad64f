"""Agents that take notes, by the official client of MCP."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import anyio
import httpx2
from mcp import Client, MCPError

from examples.harness import Example
from examples.harness.http import TIMEOUT

if TYPE_CHECKING:
    from examples.harness import Session

logging.getLogger("mcp.client").setLevel(logging.ERROR)  # without us no session can be ended, and it says so
_PAUSE = 0.1  # seconds between two calls
_NOTES = 15  # of a notebook or a session; then another one


class Agent:
    """An agent, with what the server confirmed of its notes."""

    def __init__(self, session: Session) -> None:
        """Tell that session of it."""
        self.session = session
        self._confirmed: set[str] = set()

    async def call(self, client: Client, tool: str, **arguments: str) -> dict[str, Any] | None:
        """Return what a tool answers; ``None`` if it does not know the notes any more, or the call failed."""
        try:
            result = await client.call_tool(tool, arguments)
        except MCPError as error:
            self.failed(error)
            return None
        self.session.answered()
        if result.is_error or result.structured_content is None:
            self.session.looked(kept=False)
            return None
        return result.structured_content

    def look(self, text: str, answer: dict[str, Any]) -> None:
        """Compare the notes that are there with those that were confirmed."""
        self._confirmed.add(text)
        self.session.looked(kept=self._confirmed <= set(answer["notes"]), holder=answer["pid"])
        self._confirmed &= set(answer["notes"])

    def failed(self, error: Exception) -> None:
        """Note that a call failed, or that the session is gone."""
        if "terminated" in str(error) or "not found" in str(error).lower():  # status 404: start anew, says the protocol
            self.session.answered()
            self.session.looked(kept=False)
        else:
            self.session.failed(f"{type(error).__name__}: {error}", safe=False)  # calls are POSTs

    async def notebook(self, client: Client) -> None:
        """Open a notebook, and write into it."""
        opened = await self.call(client, "open_notebook")
        if opened is None:
            return
        for number in range(_NOTES):
            await anyio.sleep(_PAUSE)
            answer = await self.call(client, "note", notebook=opened["notebook"], text=f"note {number}")
            if answer is None:
                return
            self.look(f"note {number}", answer)

    async def notes(self, client: Client) -> None:
        """Write notes of a session."""
        for number in range(_NOTES):
            await anyio.sleep(_PAUSE)
            answer = await self.call(client, "note", text=f"note {number}")
            if answer is None:
                return
            self.look(f"note {number}", answer)


async def with_handles(url: str, session: Session) -> None:
    """Open notebooks by the protocol of today, until cancelled."""
    while True:
        await _connected(url, session, "auto")


async def with_sessions(url: str, session: Session) -> None:
    """Open sessions by the protocol of yesterday, until cancelled."""
    while True:
        await _connected(url, session, "legacy")


async def _connected(url: str, session: Session, mode: str) -> None:
    agent = Agent(session)
    try:
        async with Client(f"{url}/mcp", mode=mode, read_timeout_seconds=TIMEOUT) as client:
            await client.list_tools()  # as agents do; the client learns from it which arguments go into headers
            await (agent.notebook(client) if mode == "auto" else agent.notes(client))
    except* (MCPError, httpx2.HTTPError) as errors:
        for error in _leaves(errors):
            agent.failed(error)
    await anyio.sleep(_PAUSE)


def _leaves(errors: BaseExceptionGroup[Exception]) -> list[Exception]:
    found: list[Exception] = []
    for error in errors.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


EXAMPLES = (
    Example(
        name="MCP, handles",
        folder="mcp_server",
        title="the official SDK without sessions, ids made by a tool, three replicas behind nginx",
        user=with_handles,
        needs=("mcp",),
    ),
    Example(
        name="MCP, sessions",
        folder="mcp_server",
        app="sessions:app",
        title="the official SDK with sessions that cannot be saved, three replicas behind nginx",
        user=with_sessions,
        needs=("mcp",),
    ),
)
