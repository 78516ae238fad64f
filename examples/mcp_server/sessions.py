"""An MCP server with sessions, as the protocol had them until 2025-11-25: the SDK keeps each in one process's dict.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn sessions:app --port 8001   # and more, behind a round robin

A session of the SDK cannot be saved. So a process that is to end *lingers*: it gets no new sessions, and the old ones
are served, through the others, until they end.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel

STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost
IDLE = 1800.0  # seconds, after which the SDK forgets a session

server = MCPServer("notes")
notes: defaultdict[str, list[str]] = defaultdict(list)  # the state, by session


class Notes(BaseModel):
    """What a tool answers."""

    notes: list[str]
    pid: int


@server.tool()
async def note(text: str, context: Context[Any, Any]) -> Notes:
    """Write a note, and return all of this session."""
    session = (context.headers or {})["mcp-session-id"]
    notes[session].append(text)
    return Notes(notes=notes[session], pid=os.getpid())


app = server.streamable_http_app(session_idle_timeout=IDLE)

if STICKY:
    from stateful_route.web import ResponseHeader, StickyMiddleware

    # The id comes with the answer to "initialize", from whichever process was asked, and ends with a DELETE.
    session_id = ResponseHeader("mcp-session-id", ttl=IDLE, missing=404, release_on={"delete", 404})
    app.add_middleware(StickyMiddleware, service="mcp", uid=session_id, drain="linger", linger_idle=30.0)
