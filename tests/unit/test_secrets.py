"""A password is in no message, repr, log line, attribute or pickle, whatever is wrong with what it came in."""

from __future__ import annotations

import asyncio
import inspect
import logging
import pickle
import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import (
    URL_QUERY_ARGUMENT_PARSERS,
    AbstractConnection,
    Connection,
    ConnectionPool,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from stateful_route import BaseConfig, ConfigError, StatefulRoute, StatefulRouteError, StoreUnavailableError
from stateful_route.store.transport.topology import Limits, open_client
from stateful_route.store.transport.url import read_url, shown
from tests.scripted_server import ScriptedServer, Words, echo
from tests.store.script_calls import connections_at

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "hunter2"
ONCE = Retry(NoBackoff(), 0)
CONFIG = BaseConfig(call_deadline=0.2)


class Dsn:
    """A URL object of another library, whose text and repr hold the password."""

    def __str__(self) -> str:
        return f"redis://:{MARK}@host"

    __repr__ = __str__


def chain(error: BaseException) -> Iterator[BaseException]:
    """Give an error and those that a traceback shows with it."""
    at: BaseException | None = error
    while at is not None:
        yield at
        at = at.__cause__ or (None if at.__suppress_context__ else at.__context__)


def told(error: BaseException) -> list[str]:
    """Return all that an error says, by whatever way."""
    texts = ["".join(traceback.format_exception(error, chain=True))]
    for one in chain(error):
        texts += [str(one), repr(one), repr(one.args), repr(vars(one))]
        if isinstance(one, StatefulRouteError):
            texts.append(repr(pickle.dumps(one)))
    return texts


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(logging.Formatter("%(message)s %(exc_text)s").format(record))


def said_of(url: Any) -> list[str]:
    """Return all that is said when a route is made of such a URL, opened, and asked for what no server can answer."""
    log, lines = logging.getLogger("stateful_route"), Lines()
    log.addHandler(lines)
    texts = []

    async def use() -> None:
        texts.append(repr(StatefulRoute(url, CONFIG)))
        async with StatefulRoute.from_url(url, CONFIG) as route:
            texts.extend([repr(route), repr(route.store), repr(vars(route.store))])
            await route.store.info()

    try:
        asyncio.run(use())
    except StatefulRouteError as error:
        texts += told(error)
    finally:
        log.removeHandler(lines)
    return texts + lines.lines


# Nothing answers at any of these.
WHOLE = [
    f"redis://:{MARK}@127.0.0.1:1/0",
    f"redis://user:{MARK}@127.0.0.1:1/0?db=1",
    f"redis://{MARK}:x@127.0.0.1:1",
    f"redis://127.0.0.1:1?password={MARK}",
    f"redis://127.0.0.1:1?username=u&password={MARK}",
    f"rediss://u:{MARK}@127.0.0.1:1?ssl_password={MARK}",
    f"unix://u:{MARK}@/nowhere",
    f"unix:///nowhere?password={MARK}",
    f"redis+sentinel://u:{MARK}@127.0.0.1:1,127.0.0.1:2/service",
    f"redis+cluster://u:{MARK}@127.0.0.1:1,127.0.0.1:2",
    f"valkey://:{MARK}@127.0.0.1:1",
]
SLIPS = [
    MARK,
    f":{MARK}@host",
    f"http://user:{MARK}@host",
    f"redis:/user:{MARK}@host",
    f"redis://:{MARK}",
    f"redis://user:{MARK}",
    f"redis://host:{MARK}/0",
    f"redis://:{MARK}#@host",
    f"redis://:x#{MARK}@host",
    f"redis://:x/{MARK}@host",
    f"redis://:x?{MARK}@host",
    f"redis://:x?y={MARK}@host",
    f"redis://u:x@{MARK}@host/x",
    f"redis://u:{MARK}%40host",
    f"redis://:{MARK}@host/x",
    f"redis://host/{MARK}",
    f"redis://host?PASSWORD={MARK}",
    f"redis://host?pass={MARK}",
    f"redis://host?{MARK}",
    f"redis://host?{MARK}=1",
    f"redis://host?password=x&{MARK}=1",
    f"redis://host?password=x@{MARK}&db=x",
    f"redis://host?password={MARK}#",
    f"redis://host?protocol={MARK}",
    f"redis://host?db={MARK}",
    f"redis://host?socket_connect_timeout={MARK}",
    f"redis://host?ssl_password={MARK}",
    f"redis://u:{MARK}\udc80@host",
    f"redis://u:{MARK}@[::1",
    f"redis://u:{MARK}@ho℀st",
    f"rediss://host?ssl_cert_reqs={MARK}",
    f"rediss://host?ssl_include_verify_flags={MARK}",
    f"redis+sentinel://u:{MARK}@host",
    f"redis+sentinel://u:{MARK}@,host/service",
    f"redis+cluster://u:{MARK}@host/1",
    f"embedded://u:{MARK}@redis-server",
    f"embedded://:{MARK}",
    f"embedded://redis-server?password={MARK}",
]


@pytest.mark.parametrize(
    "url",
    [
        *WHOLE,
        *SLIPS,
        *(url.encode(errors="surrogateescape") for url in (*WHOLE, *SLIPS[:5])),
        *map(urlsplit, WHOLE[:5]),
        Dsn(),
        Redis(password=MARK),
        redis.Redis(password=MARK),
        [WHOLE[0]],
        {"url": WHOLE[0]},
    ],
    ids=lambda url: url if isinstance(url, str) else type(url).__name__,
)
def test_no_password(url: Any) -> None:
    """Neither a URL that works nor one with a slip, as a string or another object, gives its password away."""
    assert [] == [text for text in said_of(url) if MARK in text]


@given(st.sampled_from(WHOLE), st.integers(0, 60), st.text("/?#@:&=%[],;. \n\\\0é", min_size=1, max_size=2))
def test_no_password_with_any_slip(url: str, at: int, slip: str) -> None:
    """Nor does one into which some characters have slipped that have a meaning."""
    slipped = url[:at] + slip + url[at:]
    if MARK not in slipped:  # it was cut in two
        return
    try:
        texts = [repr(read_url(slipped))]
    except ConfigError as error:
        texts = told(error)

    assert [] == [text for text in (*texts, shown(slipped)) if MARK in text]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_server_that_quotes_the_password(protocol: int) -> None:
    """Nor does a server that does not know AUTH or HELLO, and says what came with it."""

    def quote(words: Words) -> bytes:
        quoted = " ".join(f"`{word}`," for word in words[1:])
        return f"-ERR unknown command `{words[0]}`, with args beginning with: {quoted}\r\n".encode()

    server = ScriptedServer(echo)
    server.greet = quote
    async with server.run():
        url = f"unix://user:{MARK}@{server.path}?protocol={protocol}"
        async with StatefulRoute.from_url(url, CONFIG) as route:
            with pytest.raises(StatefulRouteError) as pipelined:
                await route.store.info()
        async with Redis(
            unix_socket_path=server.path, username="user", password=MARK, protocol=protocol, retry=ONCE
        ) as client:
            with pytest.raises(StatefulRouteError) as borrowed:
                await open_client(client, Limits(0.2, 1)).command("PING")

    assert [] == [text for error in (pipelined.value, borrowed.value) for text in told(error) if MARK in text]
    assert "unknown command" in str(pipelined.value)


async def test_a_password_that_cannot_be_sent() -> None:
    """Nor does Python's own error for a character that cannot be encoded, which keeps the whole of it."""
    server = ScriptedServer(echo)
    async with (
        server.run(),
        Redis(unix_socket_path=server.path, password=f"{MARK}\udc80", retry=ONCE) as client,
    ):
        with pytest.raises(StoreUnavailableError) as raised:
            await open_client(client, Limits(0.2, 1)).command("PING")

    assert [] == [text for text in told(raised.value) if MARK in text]


def option_names() -> list[str]:
    """Return the names of all that redis-py takes, be it in a URL or only in Python."""
    takers = (AbstractConnection, Connection, UnixDomainSocketConnection, SSLConnection, ConnectionPool, Redis)
    names = {name for taker in (*takers, RedisCluster) for name in inspect.signature(taker.__init__).parameters}
    return sorted(names | URL_QUERY_ARGUMENT_PARSERS.keys() | {"ssl", "no_such_option"})


@pytest.mark.parametrize("start", ["redis://h", "rediss://h", "unix:///h", "redis+sentinel://h/s", "redis+cluster://h"])
async def test_options(start: str) -> None:
    """Each option that redis-py takes works in a URL, is ignored with a warning, or is refused with what does work."""
    refused, opened, texts, explained = set(), set(), list[str](), list[bool]()
    for name in option_names():
        for value in ("1", "3", "none", "true", f"/{MARK}", "TLSv1.2", "VERIFY_X509_STRICT"):
            tls = "ssl=true&" if "+" in start and name.startswith("ssl_") else ""
            try:
                async with connections_at(f"{start}?{tls}{name}={value}"):
                    opened.add(name)
            except ConfigError as error:
                refused.add(name)
                texts.append(str(error))
                explained.append(
                    "of options client_name, db" in error.allowed
                    or f"option {name!r}" in error.allowed
                    or "cluster" in error.allowed
                    or "the installed redis-py" in error.allowed
                )

    assert [] == [text for text in texts if MARK in text]
    assert all(explained)
    assert {"client_name", "password", "username", "protocol", "socket_connect_timeout"} <= opened
    assert {"socket_timeout", "decode_responses", "max_connections"} <= opened - refused
    assert {"retry", "connection_class", "host", "no_such_option"} <= refused - opened
