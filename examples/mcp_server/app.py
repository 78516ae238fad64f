"""An MCP server without sessions, as the protocol has it since 2026-07-28: a tool makes a handle, later calls bring it.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn app:app --port 8001   # and more of them, behind a round robin
"""

from __future__ import annotations

import json
import os
import uuid
from typing import TYPE_CHECKING, Annotated, Any

import redis.asyncio
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from stateful_route import Ownership

STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost

database = redis.asyncio.from_url(os.environ.get("STATEFUL_ROUTE_URL", "redis://127.0.0.1"))
server = MCPServer("notes")
notebooks: dict[str, list[str]] = {}  # the state
rights: dict[str, Ownership] = {}  # the right to a notebook under which this process put it into memory


class Notebook(BaseModel):
    """What a tool answers."""

    notebook: str
    notes: list[str]
    pid: int


async def save(uid: str) -> None:
    """Save a notebook; called before it leaves this process."""
    rights.pop(uid, None)
    if (notes := notebooks.pop(uid, None)) is not None:
        await database.set(f"notebook:{uid}", json.dumps(notes))


async def notes_of(uid: str, request: Any) -> list[str] | None:
    """Return a notebook from memory; the first time after it came to this process, as it was saved; or ``None``."""
    if STICKY:
        right, earlier = Sticky.of(request).ownership, rights.get(uid)
        if not right:
            return None  # no process has made such a handle
        # Another process may have had it since it was put into memory: then what is here is old.
        if earlier is None or not (right.epoch == earlier.epoch or right.resumes(earlier)):
            saved = await database.get(f"notebook:{uid}")
            if saved is None:
                return None
            if rights.get(uid) is earlier:  # nobody else has put it there while this waited
                notebooks[uid] = json.loads(saved)
        rights[uid] = right
    return notebooks.get(uid)


@server.tool()
async def open_notebook(context: Context[Any, Any]) -> Notebook:
    """Open an empty notebook, and return its handle."""
    if STICKY:
        # A new id that is this process's from now on, whoever brings it and wherever.
        right = await Sticky.of(context.request_context.request).server.mint("nb")
        uid, rights[right.uid] = right.uid, right
    else:
        uid = f"nb-{uuid.uuid4()}"
    notebooks[uid] = []
    return Notebook(notebook=uid, notes=[], pid=os.getpid())


# With x-mcp-header a client repeats the argument in the header Mcp-Param-Notebook: nobody has to read bodies.
Handle = Annotated[str, Field(json_schema_extra={"x-mcp-header": "Notebook"})]


@server.tool()
async def note(notebook: Handle, text: str, context: Context[Any, Any]) -> Notebook:
    """Write a note, and return all of them."""
    notes = await notes_of(notebook, context.request_context.request)
    if notes is None:
        raise ToolError(f"there is no notebook {notebook}")
    notes.append(text)
    return Notebook(notebook=notebook, notes=notes, pid=os.getpid())


app = server.streamable_http_app()

if STICKY:
    from stateful_route.web import McpParam, Sticky, StickyMiddleware

    # Older clients bring it in the body only, where it is looked for too. It is placed if it has no link: when its
    # process ends, the next call brings it to another one, which loads what was saved.
    handle = McpParam("Notebook", argument="notebook", place=False, ttl=3600)
    app.add_middleware(StickyMiddleware, service="notes", uid=handle, hand_off=save)
