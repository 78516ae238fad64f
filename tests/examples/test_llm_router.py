"""The LLM router: what tells a conversation, and where it goes when a model server is full."""

from __future__ import annotations

import json
import secrets
import sys
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("psutil")

from examples.harness.example import EXAMPLES
from examples.harness.processes import Server, free_port
from examples.llm_router.router import CONVERSATION, LONGEST, app, opening
from stateful_route.embedded.server import LocalServer
from stateful_route.web import RequestHead, StickyGateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.slow

FOLDER = EXAMPLES / "llm_router"
SYSTEM = {"role": "system", "content": "Be brief."}
HELLO = {"role": "user", "content": "Hello."}
ANSWER = {"role": "assistant", "content": "Hello!"}
NEXT = {"role": "user", "content": "And now?"}


def request(body: Any, headers: tuple[tuple[bytes, bytes], ...] = ()) -> RequestHead:
    text = json.dumps(body).encode()
    sent = [(b"content-type", b"application/json"), (b"content-length", str(len(text)).encode()), *headers]
    return RequestHead({"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": sent}, text)


def test_opening_stays() -> None:
    """A conversation has the same opening while it grows, and another one than a conversation that begins otherwise."""
    begun = opening(request({"model": "a", "messages": [SYSTEM, HELLO]}))

    assert begun is not None
    assert begun == opening(request({"model": "a", "messages": [SYSTEM, HELLO, ANSWER, NEXT], "temperature": 1}))
    assert begun != opening(request({"model": "b", "messages": [SYSTEM, HELLO]}))
    assert begun != opening(request({"model": "a", "messages": [SYSTEM, NEXT]}))
    assert begun != opening(request({"model": "a", "messages": [HELLO]}))


@pytest.mark.parametrize(
    "body", [None, [], "x", {}, {"messages": None}, {"messages": {}}, {"messages": []}], ids=json.dumps
)
def test_no_opening(body: Any) -> None:
    """A body without messages has no opening."""
    assert opening(request(body)) is None


@pytest.mark.parametrize(
    "message",
    ["x", None, 1, [], {}, {"role": []}, {"role": {}}, {"role": "system"}, {"content": "\ud800"}],
    ids=json.dumps,
)
def test_opening_of_anything(message: Any) -> None:
    """Whatever is among the messages, there is an opening: the model server says what is wrong with it."""
    assert opening(request({"messages": [message]})) is not None


@pytest.mark.parametrize("depths", [range(100, 101), range(800, 1_000), range(100_000, 100_001)], ids=str)
def test_opening_of_any_depth(depths: range) -> None:
    """A message of any depth raises nothing."""
    sent = [(b"content-type", b"application/json")]
    for depth in depths:
        text = b'{"messages":[' + b"[" * depth + b"]" * depth + b"]}"
        head = RequestHead({"type": "http", "method": "POST", "path": "/", "headers": sent}, text)

        assert isinstance(opening(head), str | None)


def test_first_that_finds_something() -> None:
    """A session id counts more than a cache key, and that more than the opening."""
    body = {"prompt_cache_key": "key", "messages": [HELLO]}
    found = [source.find(request(body, ((b"x-session-id", b"session"),))) for source in CONVERSATION]

    assert ["session", "key", opening(request(body))] == found
    assert LONGEST == max(source.body_limit for source in CONVERSATION)
    assert isinstance(app, StickyGateway)


def served(name: str, environment: dict[str, str], stack: AsyncExitStack) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", name, "--port", str(port), "--log-level", "warning"]
    server = Server(name, command, {"STICKY": "1", **environment}, FOLDER, port=port)
    stack.push_async_callback(server.stop)
    return server


@pytest.fixture
async def servers() -> AsyncIterator[tuple[Server, Server, Server]]:
    """Run a large model server and a router, and describe a small one; each is full with two conversations."""
    redis = LocalServer(tcp=True)
    redis.start()
    try:
        async with AsyncExitStack() as stack:
            shared = {"STATEFUL_ROUTE_URL": redis.url, "STATEFUL_ROUTE_SECRET": secrets.token_hex()}
            full = {"STATEFUL_ROUTE_MAX_LINKS": "2", "STATEFUL_ROUTE_MAX_LINKS_IS_HARD": "true"}
            large = served("app:app", {**shared, **full, "STATEFUL_ROUTE_CAPACITY": "100"}, stack)
            small = served("app:app", {**shared, **full}, stack)
            router = served("router:app", shared, stack)
            await large.start()
            await router.start()
            yield large, small, router
    finally:
        redis.stop()


async def ask(http: httpx.AsyncClient, number: int, *more: dict[str, str]) -> httpx.Response:
    """Ask in a session, whose prompt has two words that each has, and two of its own."""
    body = {"messages": [SYSTEM, {"role": "user", "content": f"Session {number}."}, *more], "stream": True}
    return await http.post("/v1/chat/completions", json=body, headers={"x-session-id": f"session-{number}"})


def end_of(answer: httpx.Response) -> tuple[int, int]:
    """Return which process answered, and how many tokens were in its cache."""
    lines = [line for line in answer.raise_for_status().text.splitlines() if line]
    assert lines[-1] == "data: [DONE]"
    end = json.loads(lines[-2].removeprefix("data: "))
    return int(end["system_fingerprint"]), end["usage"]["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.timeout(90)
async def test_spills(servers: tuple[Server, Server, Server]) -> None:
    """What the server with the least load has no room for goes to the other; what none has room for gets a 503."""
    large, small, router = servers
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{router.port}", timeout=30, trust_env=False) as http:
        first = [end_of(await ask(http, number)) for number in range(2)]
        await small.start()
        # By load the last one would go to the large server: two of its hundred are less than one of one.
        first += [end_of(await ask(http, number)) for number in (2, 3)]
        refused = await ask(http, 4)
        second = [end_of(await ask(http, number, NEXT)) for number in range(4)]

    assert [large.pid, large.pid, small.pid, small.pid] == [pid for pid, _ in first]
    assert (503, "retry-after") == (refused.status_code, *[key for key in refused.headers if key == "retry-after"])
    assert [(pid, 4) for pid, _ in first] == second
