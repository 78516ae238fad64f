"""What each error of redis-py means."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import pytest
import redis.exceptions as raised

from stateful_route.errors import StoreError, StoreProtocolError, StoreTimeoutError, StoreUnavailableError
from stateful_route.store.faults import REDIS_ERRORS, timed_out, translate

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
