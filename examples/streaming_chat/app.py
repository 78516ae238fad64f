"""A chat with a language model that streams its answers, and keeps what it computed for each conversation in memory.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn app:app --port 8001   # and more of them, behind a round robin
"""

from __future__ import annotations

import asyncio
import json
import os
from typing import TYPE_CHECKING, Annotated, Any

import redis.asyncio
from fastapi import FastAPI, HTTPException, Request
from fastapi import Header as FromHeader
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost
TOKENS = 12  # of an answer
SECONDS_PER_TOKEN = 0.02

app = FastAPI()
database = redis.asyncio.from_url(os.environ.get("STATEFUL_ROUTE_URL", "redis://127.0.0.1"))


class Conversation:
    """A conversation, with its cache. A real one would hold the keys and values of the attention here.

    Attributes:
        right: the right to the conversation under which this process put it into memory.
        turns: what was asked, and the tokens of each answer so far.

    """

    def __init__(self, right: Any, turns: list[dict[str, Any]]) -> None:
        """Begin, or go on where another process ended."""
        self.right = right
        self.turns = turns

    async def next_token(self) -> None:
        """Compute one more token of the last answer."""
        await asyncio.sleep(SECONDS_PER_TOKEN)
        tokens = self.turns[-1]["tokens"]
        tokens.append(f"{self.turns[-1]['asked']}/{len(tokens)}")


conversations: dict[str, Conversation] = {}


async def save(uid: str) -> None:
    """Save a conversation; called before it leaves this process, when its streams have ended."""
    if conversation := conversations.pop(uid, None):
        await database.set(f"conversation:{uid}", json.dumps(conversation.turns))


if STICKY:
    from stateful_route.web import Header, StickyMiddleware

    app.add_middleware(StickyMiddleware, service="chat", uid=Header("x-conversation-id"), hand_off=save)


async def conversation_of(uid: str, request: Request) -> Conversation:
    """Return a conversation from memory; the first time after it came to this process, as it was saved."""
    if not STICKY:
        return conversations.setdefault(uid, Conversation(None, []))
    right = request.state.sticky.ownership
    known = conversations.get(uid)
    # Another process may have had it since it was put into memory: then what is here is old.
    if known is None or not (right.epoch == known.right.epoch or right.resumes(known.right)):
        saved = await database.get(f"conversation:{uid}")
        if conversations.get(uid) is known:  # nobody else has put it there while this waited
            conversations[uid] = Conversation(right, json.loads(saved) if saved else [])
    conversations[uid].right = right
    return conversations[uid]


Uid = Annotated[str, FromHeader(alias="x-conversation-id")]


@app.post("/chat")
async def ask(question: dict[str, str], uid: Uid, request: Request) -> dict[str, Any]:
    """Ask something; the answer is to be read from the stream."""
    conversation = await conversation_of(uid, request)
    conversation.turns.append({"asked": question["text"], "tokens": []})
    return {"turns": len(conversation.turns), "pid": os.getpid()}


@app.get("/stream")
async def stream(uid: Uid, request: Request, last_event_id: Annotated[int, FromHeader()] = -1) -> StreamingResponse:
    """Stream the answer to the last question, after the token that the client has."""
    conversation = await conversation_of(uid, request)
    if not conversation.turns:
        raise HTTPException(404, "no such conversation")

    async def events() -> AsyncIterator[str]:
        tokens = conversation.turns[-1]["tokens"]
        for number in range(last_event_id + 1, TOKENS):
            while len(tokens) <= number:
                await conversation.next_token()
            yield f"id: {number}\ndata: {json.dumps({'token': tokens[number]})}\n\n"
        yield f"event: done\ndata: {json.dumps({'turns': len(conversation.turns), 'pid': os.getpid()})}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
