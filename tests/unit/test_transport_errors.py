"""What each error of redis-py means."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
import redis.exceptions as raised
from redis.asyncio.sentinel import MasterNotFoundError

from stateful_route.errors import StoreError, StoreProtocolError, StoreTimeoutError, StoreUnavailableError
from stateful_route.store.transport.errors import REDIS_ERRORS, address_of, away, timed_out, translate
from stateful_route.store.transport.resp import ReplyError

if TYPE_CHECKING:
    from collections.abc import Iterable

UNAVAILABLE, TIMEOUT, PROTOCOL, STORE = StoreUnavailableError, StoreTimeoutError, StoreProtocolError, StoreError

# Every class of redis-py: what it becomes, and whether the server certainly did nothing. A class that is not here is
# one that a newer redis-py brought: decide what it means, in store/faults.py, and say so here.
MEANING: dict[str, tuple[type[StoreError], bool]] = {
    "AskError": (UNAVAILABLE, True),
    "AuthenticationError": (UNAVAILABLE, True),
    "AuthenticationWrongNumberOfArgsError": (UNAVAILABLE, True),
    "AuthorizationError": (UNAVAILABLE, True),
    "BusyLoadingError": (UNAVAILABLE, True),
    "ClusterCrossSlotError": (PROTOCOL, False),
    "ClusterDownError": (UNAVAILABLE, True),
    "ClusterError": (UNAVAILABLE, False),
    "ConnectionError": (UNAVAILABLE, False),
    "CrossSlotTransactionError": (UNAVAILABLE, False),
    "DataError": (STORE, False),
    "ExecAbortError": (PROTOCOL, False),
    "ExternalAuthProviderError": (UNAVAILABLE, False),
    "InvalidPipelineStack": (UNAVAILABLE, False),
    "InvalidResponse": (PROTOCOL, False),
    "LockError": (STORE, False),
    "LockNotOwnedError": (STORE, False),
    "MasterDownError": (UNAVAILABLE, True),
    "MaxClientsReachedError": (UNAVAILABLE, False),  # of a connection: no command was sent
    "MaxConnectionsError": (UNAVAILABLE, True),
    "ModuleError": (PROTOCOL, False),
    "MovedError": (UNAVAILABLE, True),
    "NoPermissionError": (UNAVAILABLE, True),
    "NoScriptError": (PROTOCOL, False),
    "NoSuchFieldsetError": (PROTOCOL, False),
    "OutOfMemoryError": (UNAVAILABLE, True),
    "PubSubError": (STORE, False),
    "ReadOnlyError": (UNAVAILABLE, True),
    "RedisClusterException": (UNAVAILABLE, False),
    "RedisClusterUnreachableError": (UNAVAILABLE, False),
    "RedisError": (STORE, False),
    "ResponseError": (PROTOCOL, False),
    "SlotNotCoveredError": (UNAVAILABLE, True),
    "TimeoutError": (TIMEOUT, False),
    "TryAgainError": (UNAVAILABLE, True),
    "WatchError": (STORE, False),
}
# What no call through a client raises, with the reason.
_IRRELEVANT = {
    "ChildDeadlockedError",  # of the pools without asyncio, after a fork
    "IncorrectPolicyType",  # a mistake in the set-up of redis-py's own command policies
}


def classes() -> Iterable[tuple[str, type[Exception]]]:
    for name, found in sorted(vars(raised).items()):
        if inspect.isclass(found) and issubclass(found, Exception) and found.__module__ == raised.__name__:
            yield name, found


def make(kind: type[Exception]) -> Exception:
    try:
        return kind("broken")
    except (ValueError, IndexError, TypeError):  # of a cluster: it reads its text
        return kind("1 127.0.0.1:7000")


@pytest.mark.parametrize(("name", "kind"), [pytest.param(*found, id=found[0]) for found in classes()])
def test_every_class(name: str, kind: type[Exception]) -> None:
    """Each class of redis-py has a meaning by an entry, is caught, and becomes the cause of that error."""
    if name in _IRRELEVANT:
        return
    error = make(kind)
    fault = translate(error, "place", sent=True, writes=True)
    expected, refused = MEANING.get(name, (None, None))

    assert (expected, refused) == (type(fault), not fault.maybe_applied)
    assert isinstance(error, REDIS_ERRORS)
    assert error is fault.__cause__
    assert "place" == fault.operation
    assert name in str(fault)


@pytest.mark.parametrize("sent", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_maybe_applied(sent: bool, writes: bool) -> None:
    """An operation may have been applied if it writes, was sent, and was not refused."""
    lost = translate(raised.ConnectionError("reset"), "place", sent=sent, writes=writes)
    late = timed_out("place", 1.0, sent=sent, writes=writes)
    refused = translate(raised.ReadOnlyError("no"), "place", sent=sent, writes=writes)

    assert [sent and writes] * 2 + [False] == [error.maybe_applied for error in (lost, late, refused)]


@pytest.mark.parametrize(
    "text",
    [
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down",
        "CLUSTERDOWN The cluster is down",
        "NOREPLICAS Not enough good replicas to write.",
        "MISCONF Redis is configured to save RDB snapshots",
        "NOAUTH Authentication required.",
        "NOPERM this user has no permissions",
        "WRONGPASS invalid username-password pair",
        "OOM command not allowed when used memory > 'maxmemory'.",
        "BUSY Redis is busy running a script.",
    ],
)
def test_refusals(text: str) -> None:
    """A server that says that it does not work now is unavailable, and did nothing."""
    fault = translate(raised.ResponseError(text), "place", sent=True, writes=True)

    assert (UNAVAILABLE, False) == (type(fault), fault.maybe_applied)


@pytest.mark.parametrize(
    "text", ["ERR unknown command", "WRONGTYPE Operation against a key", "", "BUSYKEY exists", "LOADINGS"]
)
def test_other_words(text: str) -> None:
    """Any other error of the server is one of the protocol, and says nothing of what was done before it."""
    fault = translate(raised.ResponseError(text), "place", sent=True, writes=True)

    assert (PROTOCOL, True) == (type(fault), fault.maybe_applied)


@pytest.mark.parametrize("error", [OSError("unreachable"), ConnectionResetError("reset"), BrokenPipeError("pipe")])
def test_of_the_system(error: OSError) -> None:
    """An error of the system is a store that is not available."""
    fault = translate(error, "get", sent=True, writes=False)

    assert (UNAVAILABLE, False) == (type(fault), fault.maybe_applied)
    assert isinstance(error, REDIS_ERRORS)


def test_time_out() -> None:
    """The text says within what time, and whether it was the connection that did not come."""
    assert "place: no answer within 0.5 s (it may have been applied)" == str(
        timed_out("place", 0.5, sent=True, writes=True)
    )
    assert "place: no connection within 1 s (nothing was changed)" == str(
        timed_out("place", 1.0, sent=False, writes=True)
    )


def test_address() -> None:
    """Errors name the server, once, and the time-outs too."""
    late = timed_out("get", 0.5, sent=True, writes=False, at="h:1")
    unsent = timed_out("get", 0.5, sent=False, writes=False, at="h:1")
    lost = translate(raised.ConnectionError("reset"), "get", sent=True, writes=False, at="h:1")
    named = translate(raised.ConnectionError("Error 111 connecting to h:1."), "get", sent=True, writes=False, at="h:1")

    assert "get: no answer from h:1 within 0.5 s (nothing was changed)" == str(late)
    assert "get: no connection to h:1 within 0.5 s (nothing was changed)" == str(unsent)
    assert "get: h:1: ConnectionError: reset (nothing was changed)" == str(lost)
    assert "get: ConnectionError: Error 111 connecting to h:1. (nothing was changed)" == str(named)


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({"host": "h", "port": 1, "password": "secret"}, "h:1"),
        ({"path": "/run/s", "username": "u", "password": "secret"}, "unix:///run/s"),
        ({"host": "::1"}, "[::1]:6379"),
        ({}, "localhost:6379"),
    ],
)
def test_address_of(settings: dict[str, object], address: str) -> None:
    """An address is host and port or a path, with the defaults of redis-py, and without the password."""
    assert address == address_of(settings)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("NOPERM User app has no permissions to run the 'info' command", "ACL SETUSER app +info"),
        ("ERR ACL failure in script: User app has no permissions to run the 'time' command", "ACL SETUSER app +time"),
        ("NOPERM No permissions to access a key", "ACL SETUSER ... ~sr2:*"),
        ("NOPERM No permissions to access a channel", "ACL SETUSER ... &sr2:events:*"),
        ("NOAUTH Authentication required.", "redis://user:password@host"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "check user and password"),
        ("ERR DB index is out of range", "'databases'"),
    ],
)
@pytest.mark.parametrize("kind", [ReplyError, raised.ConnectionError])
def test_advice(kind: type[Exception], text: str, advice: str) -> None:
    """Of what its user may not do the error says what to grant, and what to name."""
    assert advice in str(translate(kind(text), "place", sent=True, writes=True))


@pytest.mark.parametrize(("command", "maybe"), [("time", False), ("get", False), ("set", False), ("hset", True)])
def test_refused_in_a_script(command: str, maybe: bool) -> None:
    """A script that ended at a command that it may not call has changed nothing if that comes before all writes."""
    text = f"ERR ACL failure in script: User app has no permissions to run the '{command}' command"
    fault = translate(ReplyError(text), "place", sent=True, writes=True)

    assert (UNAVAILABLE, maybe) == (type(fault), fault.maybe_applied)


@pytest.mark.parametrize("kind", [raised.ResponseError, raised.ConnectionError])
def test_no_such_database(kind: type[Exception]) -> None:
    """A database that the server does not have is the same error over TCP and over a unix socket."""
    fault = translate(kind("DB index is out of range"), "place", sent=False, writes=True)

    assert (UNAVAILABLE, False) == (type(fault), fault.maybe_applied)


def test_away() -> None:
    """After a while without a connection the error says for how long, and when the next attempt is."""
    silent = away(raised.TimeoutError("x"), "claim", "h:1", silent=3.21, pause=0.44)
    refused = away(raised.ConnectionError("Error 111"), "claim", "h:1", silent=3.21, pause=0.44)

    assert [UNAVAILABLE, UNAVAILABLE] == [type(silent), type(refused)]
    assert (
        "claim: no connection to h:1: it has not answered for 3.2 s, next attempt in 0.4 s (nothing was changed)"
        == str(silent)
    )
    assert (
        "claim: no connection to h:1: ConnectionError: Error 111, for 3.2 s by now, next attempt in 0.4 s"
        " (nothing was changed)" == str(refused)
    )


def test_no_master() -> None:
    """That Sentinel names no primary is told without the inside of redis-py's clients."""
    client = "<redis.asyncio.client.Redis(<redis.asyncio.connection.ConnectionPool(<redis.asyncio.connection.Connection"
    text = (
        f"No master found for 'mymaster' : {client}(host=h,port=1,db=0)>)>)> - ConnectionError('Error 111 to h:1.'), "
        f"{client}(host=h,port=2,db=0)>)>)> - network:TimeoutError"
    )
    fault = translate(MasterNotFoundError(text), "place", sent=False, writes=True, at="sentinels at h:1, h:2")

    assert (
        "place: sentinels at h:1, h:2: MasterNotFoundError: no master 'mymaster'; "
        "2 of the sentinels do not answer: ConnectionError, TimeoutError (nothing was changed)" == str(fault)
    )
    assert "redis.asyncio" not in str(fault.__cause__)
