"""What each error of redis-py means to a caller of the store."""

from __future__ import annotations

import redis.exceptions as raised

from stateful_route.errors import StoreError, StoreProtocolError, StoreTimeoutError, StoreUnavailableError

# In their order: the first class that matches decides. The flag says whether the server refused the command before it
# ran it, so that nothing can have been changed, whatever was sent.
_MEANINGS: tuple[tuple[type[Exception], type[StoreError], bool], ...] = (
    (raised.MaxConnectionsError, StoreUnavailableError, True),
    (raised.BusyLoadingError, StoreUnavailableError, True),
    (raised.AuthenticationError, StoreUnavailableError, True),
    (raised.AuthorizationError, StoreUnavailableError, True),
    (raised.ConnectionError, StoreUnavailableError, False),
    (raised.TimeoutError, StoreTimeoutError, False),
    (raised.ClusterDownError, StoreUnavailableError, True),
    (raised.ReadOnlyError, StoreUnavailableError, True),
    (raised.OutOfMemoryError, StoreUnavailableError, True),
    (raised.NoPermissionError, StoreUnavailableError, True),
    (raised.TryAgainError, StoreUnavailableError, True),
    (raised.AskError, StoreUnavailableError, True),
    (raised.AuthenticationWrongNumberOfArgsError, StoreUnavailableError, True),
    (raised.SlotNotCoveredError, StoreUnavailableError, True),
    (raised.ClusterError, StoreUnavailableError, False),
    (raised.RedisClusterException, StoreUnavailableError, False),
    (raised.ResponseError, StoreProtocolError, False),
    (raised.InvalidResponse, StoreProtocolError, False),
    (raised.RedisError, StoreError, False),
)

# Errors that redis-py has no class for, by the first word of what the server says.
_REFUSALS = frozenset(
    {
        "ASK",
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "MOVED",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "WRONGPASS",
    }
)

REDIS_ERRORS = (raised.RedisError, raised.RedisClusterException, OSError)
"""What a call through redis-py raises when it fails."""


def translate(error: Exception, operation: str, *, sent: bool, writes: bool) -> StoreError:
    """Return the error of the package for one of redis-py, which becomes its cause.

    ``sent`` says whether the command was on its way when the error came, ``writes`` whether it changes anything.
    """
    kind, refused = _meaning(error)
    fault = kind(f"{type(error).__name__}: {error}", operation=operation, maybe_applied=sent and writes and not refused)
    fault.__cause__ = error
    return fault


def _meaning(error: Exception) -> tuple[type[StoreError], bool]:
    if isinstance(error, raised.ResponseError) and str(error).partition(" ")[0] in _REFUSALS:
        return StoreUnavailableError, True
    for lower, kind, refused in _MEANINGS:
        if isinstance(error, lower):
            return kind, refused
    return StoreTimeoutError if isinstance(error, TimeoutError) else StoreUnavailableError, False


def timed_out(operation: str, deadline: float, *, sent: bool, writes: bool) -> StoreTimeoutError:
    """Return the error of a call that got no answer within its deadline, in seconds."""
    step = "no answer" if sent else "no connection"
    return StoreTimeoutError(f"{step} within {deadline:g} s", operation=operation, maybe_applied=sent and writes)
