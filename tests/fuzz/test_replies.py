"""Whatever a server sends, a call has a result or an error of ours, in time, and nothing is left to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from typing import TYPE_CHECKING, Any, Protocol

import pytest
import redis.exceptions
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stateful_route import ServerInfo, StoreError
from stateful_route.pods import PodLife, Topic
from stateful_route.store import LinkKey, PodReport
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.resp import INCOMPLETE, PurePythonParser, new_parser
from stateful_route.store.transport.topology import Limits, open_client, open_url
from tests.fuzz.harness import Harness, fuzzing, sound, typed
from tests.scripted_server import ScriptedServer, Words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from stateful_route.store.transport import resp

_DEADLINE = 0.05

# Nearly the protocol, both versions of it, and nothing like it.
_TOKENS = [
    *(
        b"+OK\r\n",
        b"-ERR no\r\n",
        b"-NOSCRIPT no\r\n",
        b"-MOVED 1 h:1\r\n",
        b"-READONLY\r\n",
        b"-\r\n",
        b":1\r\n",
        b":x\r\n",
    ),
    *(
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$3\r\nabc\r\n",
        b"$3\r\nabcd",
        b"$x\r\n",
        b"$99\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*1\r\n",
    ),
    *(b"*2\r\n", b"*x\r\n", b"*-7\r\n", b"_\r\n", b"#t\r\n", b"#x\r\n", b",1.5\r\n", b",x\r\n", b"(12\r\n", b"%1\r\n"),
    *(
        b"~1\r\n",
        b">1\r\n",
        b">2\r\n",
        b"|1\r\n",
        b"!3\r\nERR\r\n",
        b"=7\r\ntxt:abc\r\n",
        b"\r\n",
        b"\n",
        b"?",
        b"HTTP/1.1",
    ),
    *(
        b"*1\r\n" * 50,
        b"%1\r\n*0\r\n:1\r\n",
        b"$35\r\n1 0 - p 0 5 7 and what is appended to\r\n",
        b":" + b"9" * 30 + b"\r\n",
    ),
]
garbage = st.lists(st.sampled_from(_TOKENS) | st.binary(max_size=8), min_size=1, max_size=5).map(b"".join)


class Way(Protocol):
    """How a store asks the server."""

    def __call__(self, server: ScriptedServer, protocol: int) -> contextlib.AbstractAsyncContextManager[RedisStore]: ...


@contextlib.asynccontextmanager
async def pipelined(server: ScriptedServer, protocol: int) -> AsyncIterator[RedisStore]:
    connections = await open_url(f"unix://{server.path}?protocol={protocol}", Limits(_DEADLINE, 100))
    async with contextlib.aclosing(RedisStore(connections)) as store:
        yield store


@contextlib.asynccontextmanager
async def borrowed(server: ScriptedServer, protocol: int) -> AsyncIterator[RedisStore]:
    async with Redis(unix_socket_path=server.path, protocol=protocol, retry=Retry(NoBackoff(), 0)) as client:
        async with contextlib.aclosing(RedisStore(open_client(client, Limits(_DEADLINE, 4)))) as store:
            yield store


def operations(store: RedisStore) -> list[Callable[[], Any]]:
    """Return calls of all operations that await one answer."""
    key, life = LinkKey("fuzz", "alice", "room"), PodLife(0, 5)
    info = ServerInfo(namespace="fuzz", service_name="room", pod_name="room-0", pod_index=0)
    report = PodReport()
    return [
        lambda: store.get_link(key),
        lambda: store.get_links("fuzz", ["alice", "bob"], "room"),
        lambda: store.get_services("fuzz", "alice"),
        lambda: store.place(key, life, 5.0),
        lambda: store.place_links("fuzz", [("alice", life), ("bob", life)], "room", 5.0),
        lambda: store.claim(key, life),
        lambda: store.release(key),
        lambda: store.assign(key, life),
        lambda: store.move(key, life, 1, life, name="m1"),
        lambda: store.register(info, report, 5.0, 10.0),
        lambda: store.heartbeat(info, 5, 1, report, 5.0, 10.0),
        lambda: store.confirm_death("fuzz", "room", life, 10.0),
        lambda: store.end_life("fuzz", "room", life, 10.0),
        lambda: store.read_pods("fuzz", "room"),
        store.info,
    ]


async def ask(way: Way, number: int, protocol: int, replies: list[bytes], greeting: bytes | None) -> None:
    """Make a call, and a second one beside it, to a server that answers like that."""
    answers = itertools.cycle(replies)
    server = ScriptedServer(lambda _: next(answers))
    if greeting is not None:
        server.greet = lambda _: greeting
    elif protocol == 3:
        server.greet = lambda words: b"%1\r\n+proto\r\n:3\r\n" if words[0] == "HELLO" else b"+OK\r\n"
    before = asyncio.all_tasks()
    async with server.run(), way(server, protocol) as store:
        calls = operations(store)
        outcomes = await asyncio.gather(typed(calls[number]()), typed(store.get_services("fuzz", "bob")))
    assert before == asyncio.all_tasks()
    assert all(map(sound, outcomes))


@pytest.mark.parametrize("way", [pipelined, borrowed])
def test_bytes(way: Way) -> None:
    """Any bytes for an answer, or in the handshake, are an answer or an error of ours, within the deadline."""
    with Harness() as harness:

        @fuzzing(60)
        @given(
            st.integers(0, 12),
            st.sampled_from([2, 3]),
            st.lists(garbage, min_size=1, max_size=3),
            st.none() | st.none() | garbage,
        )
        def check(number: int, protocol: int, replies: list[bytes], greeting: bytes | None) -> None:
            harness.run(ask(way, number, protocol, replies, greeting), within=5.0)

        check()


def encoded(value: object) -> bytes:
    """Return a value as a reply."""
    match value:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % value
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(value), value)
        case list():
            return b"*%d\r\n" % len(value) + b"".join(map(encoded, value))
    raise TypeError(value)


_LINE = st.sampled_from([b"1", b"0", b"-", b"p", b"t", b"g", b"x", b"5:7", b"1:2:3", b"", b"created", b"\xff", b"1.5"])
simple: st.SearchStrategy[Any] = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.integers(0, 3)
    | st.binary(max_size=6)
    | st.lists(_LINE, max_size=9).map(b" ".join)
    | st.sampled_from([b"accepted", b"dead", b"table", b"room", b"0"])
)
answers = st.recursive(simple, lambda inner: st.lists(inner, max_size=8), max_leaves=24)


# How many values the scripts return that return a list.
_LENGTHS = {2: 6, 8: 3, 9: 1, 10: 1, 11: 8}


@pytest.mark.parametrize("number", range(13))
def test_values(number: int) -> None:
    """Any values for what a script returns are an answer or an error of ours."""
    length = _LENGTHS.get(number, 1)
    fitting = st.lists(simple | st.lists(simple, max_size=4), min_size=length, max_size=length)
    with Harness() as harness:

        @fuzzing(40)
        @given(fitting | answers, st.sampled_from([pipelined, borrowed]))
        def check(answer: Any, way: Way) -> None:
            harness.run(ask(way, number, 2, [encoded(answer)], None), within=5.0)

        check()


def parsed(parser: resp.Parser, pieces: list[bytes]) -> list[Any]:
    """Return what a parser makes of the pieces, up to what is not of the protocol."""
    replies: list[Any] = []
    for piece in pieces:
        parser.feed(piece)
        try:
            while (reply := parser.gets()) is not INCOMPLETE:
                replies.append(reply)
        except redis.exceptions.InvalidResponse:
            break
    return replies


@fuzzing(300)
@given(st.lists(garbage, max_size=4))
def test_parser(pieces: list[bytes]) -> None:
    """The parser in Python gives replies, or says that the bytes are not of the protocol; nothing else."""
    parsed(PurePythonParser(), pieces)


@fuzzing(300)
@given(st.lists(answers, min_size=1, max_size=3), st.integers(1, 9))
def test_both_parsers(values: list[Any], size: int) -> None:
    """Both parsers read the same values, in whatever pieces they come."""
    data = b"".join(map(encoded, values))
    pieces = [data[at : at + size] for at in range(0, len(data), size)]

    assert values == parsed(PurePythonParser(), pieces) == parsed(new_parser(), pieces)


async def hear(replies: list[bytes]) -> None:
    """Listen to a server that sends such messages once it was asked for them."""

    def answer(words: Words) -> bytes:
        return b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n" + b"".join(replies) if words[0] == "SUBSCRIBE" else b""

    server = ScriptedServer(answer)
    before = asyncio.all_tasks()
    async with server.run(), pipelined(server, 2) as store:
        with contextlib.suppress(StoreError):
            async with store.listen(Topic("fuzz", "room"), 0.02) as events:
                async for _ in events:
                    pass
    assert before == asyncio.all_tasks()


_CHANNEL = b"sr2:events:fuzz"
_WORDS = [
    b"link",
    b"pod",
    b"sr2:link:{fuzz:alice}:room",
    b"room",
    b"0",
    b"5",
    b"-1",
    b"x",
    b"",
    b"DEAD",
    b"\xff",
    b"%zz",
]
payloads = st.lists(st.sampled_from(_WORDS) | st.integers(0, 2**70).map(lambda n: b"%d" % n), max_size=6).map(b" ".join)
messages = st.builds(lambda payload: encoded([b"message", _CHANNEL, payload]), payloads) | answers.map(encoded)


def test_events() -> None:
    """Whatever is published, or sent in place of it, a listener goes on, or ends with an error of ours."""
    with Harness() as harness:

        @fuzzing(60)
        @given(st.lists(messages, max_size=4) | st.lists(garbage, max_size=2))
        def check(replies: list[bytes]) -> None:
            harness.run(hear(replies), within=5.0)

        check()
