"""Someone who talks to a model: sends all that was said with each question, and reads how much was in the cache."""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from examples.harness import Example
from examples.harness.http import TIMEOUT, client

if TYPE_CHECKING:
    from examples.harness import Session

_PAUSE = 0.05  # seconds, before the next question, and before the same one is asked again
_MOST = 20  # questions; then another conversation
_SYSTEM = "You are a helpful assistant. " * 20
_QUESTION = "and what would you say of this, if somebody had asked you so?"


class Conversation:
    """One conversation; its id is in a header, in the body, or nowhere: then its opening words tell it."""

    def __init__(self, http: httpx.AsyncClient, session: Session) -> None:
        """Begin one."""
        self._http = http
        self._session = session
        self._known = 0  # tokens that some server has computed
        name = f"conversation-{uuid.uuid4()}"
        where = session.number % 3
        self._headers = {"x-session-id": name} if where == 0 else {}
        self._extra = {"prompt_cache_key": name} if where == 1 else {}
        self._messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": f"This is {name}."}]

    async def turn(self) -> None:
        """Ask, until there is a whole answer."""
        key = str(uuid.uuid4())
        deadline = time.monotonic() + TIMEOUT
        while not await self._asked(key):
            if time.monotonic() > deadline:
                self._session.failed("no whole answer")
                return
            await anyio.sleep(_PAUSE)

    async def _asked(self, key: str) -> bool:
        """Ask once; return whether the answer is whole. It changes nothing, so its key says that it may be repeated."""
        body = {"model": "none", "stream": True, "messages": self._messages, **self._extra}
        headers = {"Idempotency-Key": key, **self._headers}
        began = time.monotonic()
        try:
            async with self._http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as stream:
                if stream.is_error:
                    self._session.failed(f"status {stream.status_code}: {(await stream.aread())[:80]!r}")
                    return False
                return await self._read(stream, began)
        except httpx.TransportError as error:
            self._session.failed(type(error).__name__)
        return False

    async def _read(self, stream: httpx.Response, began: float) -> bool:
        words: list[str] = []
        end: dict[str, Any] = {}
        try:
            async for line in stream.aiter_lines():
                if line == "data: [DONE]":
                    self._answered("".join(words), end)
                    return True
                if not line.startswith("data: "):
                    continue
                end = json.loads(line.removeprefix("data: "))
                if not words:
                    self._session.measured("ms to the first token", 1000 * (time.monotonic() - began))
                words += [choice["delta"]["content"] for choice in end["choices"]]
        except httpx.TransportError:
            pass  # cut, as by an end that comes too early
        self._session.measured("tokens of an answer that was cut, and asked for again", len(words))
        return False

    def _answered(self, text: str, end: dict[str, Any]) -> None:
        usage = end["usage"]
        tokens, cached = usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]
        self._session.answered()
        self._session.measured("% of the prompt in the cache", 100 * cached / tokens)
        self._session.looked(kept=cached >= self._known, holder=int(end["system_fingerprint"]))
        self._known = tokens + usage["completion_tokens"]
        self._messages += [{"role": "assistant", "content": text}, {"role": "user", "content": _QUESTION}]


async def talk(url: str, session: Session) -> None:
    """Talk until cancelled."""
    while True:
        async with client(url) as http:
            conversation = Conversation(http, session)
            for _ in range(_MOST):
                await conversation.turn()
                await anyio.sleep(_PAUSE)


EXAMPLES = (
    Example(
        name="LLM router",
        folder="llm_router",
        title="chat completions and KV caches, three model servers behind nginx, or behind two routers",
        router="router:app",
        user=talk,
        needs=("fastapi",),
    ),
)
