"""A model server, without the model: what it computes of a prompt it keeps, as a KV cache does.

STICKY=1 STATEFUL_ROUTE_URL=redis://127.0.0.1 uvicorn app:app --port 8001   # and more of them, behind router:app
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from typing import TYPE_CHECKING, Annotated, Any

from cachetools import LRUCache
from fastapi import Body, FastAPI, Request
from fastapi.responses import StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

Messages = list[dict[str, Any]]
STICKY = os.environ.get("STICKY", "1") == "1"  # "0": without, to see what is lost
SECONDS_PER_PROMPT_TOKEN = 0.001  # of a token that is not in the cache
SECONDS_PER_TOKEN = 0.01
TOKENS = 10

app = FastAPI()
gpu = asyncio.Lock()  # there is one, and it computes one prompt at a time
prefixes: LRUCache[str, int] = LRUCache(maxsize=10_000)  # what is computed: by the hash of the messages, their tokens
conversations: LRUCache[str, Messages] = LRUCache(maxsize=1_000)  # by uid: what was said last


def prefixes_of(messages: Messages) -> list[tuple[str, int]]:
    """Return hash and tokens of the first message, of the first two, and so on. A token is a word here."""
    found, digest, tokens = [], hashlib.sha256(), 0
    for message in messages:
        digest.update(json.dumps(message, sort_keys=True).encode())
        tokens += len(str(message.get("content")).split())
        found.append((digest.hexdigest(), tokens))
    return found


async def compute(messages: Messages) -> tuple[int, int]:
    """Compute what is not in the cache yet; return how many tokens there are, and how many were in it."""
    wanted = prefixes_of(messages)
    async with gpu:
        cached = max((prefixes[key] for key, _ in wanted if key in prefixes), default=0)
        tokens = wanted[-1][1] if wanted else 0
        await asyncio.sleep((tokens - cached) * SECONDS_PER_PROMPT_TOKEN)
        prefixes.update(wanted)
    return tokens, cached


async def save(uid: str) -> bytes | None:
    """Return what was said: a KV cache is too large to travel, and the words that it was computed of are not."""
    return json.dumps(conversations[uid]).encode() if uid in conversations else None


async def load(uid: str, data: bytes, _epoch: int) -> None:
    """Compute the cache of a conversation that comes from another server, before anybody asks."""
    conversations[uid] = json.loads(data)
    await compute(conversations[uid])


if STICKY:
    from router import CONVERSATION, SERVICE  # type: ignore[import-not-found] # in this folder, where uvicorn runs

    from stateful_route.web import StickyMiddleware

    app.add_middleware(StickyMiddleware, service=SERVICE, uid=CONVERSATION, hand_off=save, adopt=load)


@app.post("/v1/chat/completions")
async def complete(messages: Annotated[Messages, Body(embed=True)], request: Request) -> StreamingResponse:
    """Answer, in the form of OpenAI's API, as a stream."""
    uid: str | None = request.state.sticky.uid if STICKY else None
    # The head of the answer goes out with its first token: before that the router may ask another server instead.
    tokens, cached = await compute(messages)
    usage = {"prompt_tokens": tokens, "completion_tokens": TOKENS, "prompt_tokens_details": {"cached_tokens": cached}}

    async def events() -> AsyncIterator[str]:
        words: list[str] = []
        for number in range(TOKENS):
            words.append(f"word-{number} ")
            yield event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": words[-1]}}]})
            await asyncio.sleep(SECONDS_PER_TOKEN)
        said = [*messages, {"role": "assistant", "content": "".join(words)}]
        prefixes.update(prefixes_of(said)[-1:])
        if uid is not None:  # a prompt that is too long to be looked into has none
            conversations[uid] = said
        yield event({"choices": [], "usage": usage, "system_fingerprint": str(os.getpid())})
        yield "data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})


def event(data: dict[str, Any]) -> str:
    """Return a server-sent event."""
    return f"data: {json.dumps(data)}\n\n"
