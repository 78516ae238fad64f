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


class GoneError(Exception):
    """The server does not know the notes any more."""


class Agent:
    """An agent, with what the server confirmed of its notes."""

    def __init__(self, client: Client, session: Session) -> None:
        """Call that server, and tell that session of it."""
        self._client = client
        self._session = session
        self._confirmed: set[str] = set()

    async def call(self, tool: str, **arguments: str) -> dict[str, Any] | None:
        """Return what a tool answers; ``None`` if the call failed.

        Raises:
            GoneError: if the tool, or the server, does not know the notes any more.

        """
        try:
            result = await self._client.call_tool(tool, arguments)
        except MCPError as error:
            note_failure(self._session, error)
            return None
        self._session.answered()
        if result.is_error:
            raise GoneError(tool)
        return dict(result.structured_content or {})

    async def write(self, number: int, **arguments: str) -> None:
        """Write a note, and compare those that are there with those that were confirmed."""
        text = f"note {number}"
        answer = await self.call("note", text=text, **arguments)
        if answer is not None:
            self._confirmed.add(text)
            self._session.looked(kept=self._confirmed <= set(answer["notes"]), holder=answer["pid"])
            self._confirmed &= set(answer["notes"])

    async def notebook(self) -> None:
        """Open a notebook, and write into it."""
        opened = await self.call("open_notebook")
        for number in range(_NOTES if opened else 0):
            await anyio.sleep(_PAUSE)
            await self.write(number, notebook=opened["notebook"] if opened else "")

    async def notes(self) -> None:
        """Write notes of a session."""
        for number in range(_NOTES):
            await anyio.sleep(_PAUSE)
            await self.write(number)


def note_failure(session: Session, error: Exception) -> None:
    """Note that a call failed.

    Raises:
        GoneError: if it was answered 404: the session is gone, and the client has to start anew, says the protocol.

    """
    if "Session terminated" in str(error) or "Session not found" in str(error):
        session.answered()
        raise GoneError(str(error))
    session.failed(f"{type(error).__name__}: {error}", safe=False)  # calls are POSTs


async def with_handles(url: str, session: Session) -> None:
    """Open notebooks by the protocol of today, until cancelled."""
    while True:
        await _connected(url, session, "auto")


async def with_sessions(url: str, session: Session) -> None:
    """Open sessions by the protocol of yesterday, until cancelled."""
    while True:
        await _connected(url, session, "legacy")


async def _connected(url: str, session: Session, mode: str) -> None:
    try:
        async with Client(f"{url}/mcp", mode=mode, read_timeout_seconds=TIMEOUT) as client:
            await client.list_tools()  # as agents do; the client learns from it which arguments go into headers
            agent = Agent(client, session)
            await (agent.notebook() if mode == "auto" else agent.notes())
    except* (GoneError, MCPError, httpx2.HTTPError) as errors:
        for error in _leaves(errors):
            try:
                if not isinstance(error, GoneError):
                    note_failure(session, error)
                    continue
            except GoneError:
                pass
            session.looked(kept=False)
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
