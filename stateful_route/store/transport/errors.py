"""What each error of redis-py means to a caller of the store, and how the message reads."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import redis.exceptions as raised
from redis.asyncio.sentinel import MasterNotFoundError

from stateful_route.errors import (
    StoreError,
    StoreProtocolError,
    StoreTimeoutError,
    StoreUnavailableError,
    of_a_question,
)
from stateful_route.store.redis.keys import GENERATION
from stateful_route.store.transport.resp import ReplyError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from stateful_route.store.transport.resp import Command

# The first class that matches decides. The flag says whether the server refused the command before it ran, so that
# nothing was changed.
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
_REFUSAL = re.compile(
    "(?:ASK|BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|MOVED|NOAUTH|NOPERM|NOREPLICAS|OOM|READONLY|TRYAGAIN|WRONGPASS)"
    "(?: |$)"
)

# A script runs with the rights of its user, and ends at the first command that they do not allow. What it wrote before
# stays.
_REFUSED_IN_A_SCRIPT = re.compile(r"ACL failure in script: (?:.*? run the '([^']+)' command)?")

# Commands that our scripts call only before they write; but an entry of a history, which is the first that is written.
CALLED_BEFORE_WRITES = frozenset({"get", "hget", "rpush", "set", "time"})

# A ConnectionError of redis-py over a unix socket, and not over TCP.
_NO_DATABASE = "DB index is out of range"

_NO_RIGHT = re.compile(r"(?:[Uu]ser (\S+) has )?no permissions to run the '([^']+)' command")

_ALL_RIGHTS = "(the documentation lists all that a user needs)"

# Errors that are answers of a server; to redis-py the last three are errors of the connection.
_ANSWERS = (
    raised.ResponseError,
    raised.AuthenticationError,
    raised.AuthorizationError,
    raised.BusyLoadingError,
)

_ADVICE: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(r"(?i)no permissions to access (?:a|one of the) key"),
        f"grant the keys: ACL SETUSER ... ~sr{GENERATION}:*",
    ),
    (
        re.compile(r"(?i)no permissions to access (?:a|one of the) channel"),
        f"grant the channels: ACL SETUSER ... &sr{GENERATION}:events:*",
    ),
    (re.compile(r"Authentication required"), "name a user and a password, as in redis://user:password@host"),
    (re.compile(r"(?i)invalid username-password|invalid password"), "check user and password, be they in the URL"),
    (re.compile(r"without any password configured"), "name no password, for the server has none"),
    (re.compile(_NO_DATABASE), "name a database that the server has, by its setting 'databases'"),
)

_QUOTED = re.compile(r",? with args beginning with:.*", re.DOTALL)
"""What follows the name of a command that a server does not know."""

_IN_A_SCRIPT = re.compile(r",? ?script: (?:[0-9a-f]{40},? )?on @user_script: ?\d+\.?")
"""Where in which script a command was refused: a server adds it, and it says nothing to anybody."""

REDIS_ERRORS = (raised.RedisError, raised.RedisClusterException, OSError)
"""What redis-py raises when it fails."""

_SILENT_SENTINEL = re.compile(r"> - (?:\w+:)?(\w*Error)\b")
"""The error of a sentinel in the text of a ``MasterNotFoundError``, after the repr of its client."""


def command_name(command: Command) -> str:
    """Return the name in errors of a command that is no operation of the store."""
    return f"the {command[0]} command"


def not_a_primary(address: str, command: Command) -> StoreUnavailableError:
    """Return the error of a command for a primary that is none, or none any more."""
    message = f"{address} is no primary now"
    return StoreUnavailableError(message, operation=command_name(command), maybe_applied=False)


def address_of(settings: Mapping[str, Any]) -> str:
    """Return the address for which a connection of redis-py has these settings, without the password.

    With Sentinel it is the primary that was named last, or the sentinels until one was.
    """
    try:
        pool = settings.get("connection_pool")
        if pool is not None and pool.master_address is None:
            watchers = [watcher.connection_pool.connection_kwargs for watcher in pool.sentinel_manager.sentinels]
            return f"sentinels at {', '.join(map(address_of, watchers))}"
        if pool is not None:
            host, port = pool.master_address
            return f"{host}:{port}"
    except (AttributeError, ReferenceError):  # of another redis-py, or closed
        return "the primary"
    if path := settings.get("path"):
        return f"unix://{path}"
    host = str(settings.get("host") or "localhost")
    return f"{f'[{host}]' if ':' in host else host}:{settings.get('port') or 6379}"


def translate(error: Exception, operation: str, *, sent: bool, writes: bool, at: str = "") -> StoreError:
    """Return the error of the package for one of redis-py, which becomes its cause.

    ``sent`` says whether the command was in flight, ``writes`` whether it changes anything; ``at`` is the address of
    the server.
    """
    kind, refused = _meaning(error)
    error = plain(error)
    text = _text(error)
    place = f"{at}: " if at and at not in text else ""
    fault = kind(place + text + _advice(text), operation=operation, maybe_applied=sent and writes and not refused)
    fault.__cause__ = error
    fault.refused = _has_answered(error)
    return fault


def is_cross_slot(fault: StoreError) -> bool:
    """Whether a server refused keys that are in different slots of a cluster."""
    cause = fault.__cause__
    return isinstance(cause, ReplyError) and cause.code == "CROSSSLOT"


def away(error: Exception, operation: str, at: str, *, silent: float, pause: float) -> StoreError:
    """Return the error of a call that was not sent, as the server has been unreachable for ``silent`` seconds.

    ``error`` is that of the last attempt to connect; the next one is in ``pause`` seconds.
    """
    text, late = _text(error), isinstance(error, raised.TimeoutError | TimeoutError)
    reason = f"it has not answered for {silent:.1f} s" if late else f"{text}, for {silent:.1f} s by now"
    message = f"no connection to {at}: {reason}, next attempt in {pause:.1f} s{_advice(text)}"
    fault = (StoreUnavailableError if late else _meaning(error)[0])(message, operation=operation, maybe_applied=False)
    fault.__cause__ = error
    fault.refused = not late and _has_answered(error)
    return fault


def plain(error: Exception) -> Exception:
    """Return the error, or one without secrets and internals.

    A server quotes the arguments of a command that it does not know, and those of AUTH and HELLO are the password.
    Python keeps what it could not encode in the error. Sentinel's error holds the repr of its clients.
    """
    if any(isinstance(part, UnicodeError) for part in (error, *error.args)):
        return raised.ConnectionError("something that is to be sent cannot be encoded, be it user or password")
    if isinstance(error, raised.RedisError) and _QUOTED.search(str(error)):
        return type(error)(_QUOTED.sub("", str(error)))
    if not isinstance(error, MasterNotFoundError):
        return error
    first, _, rest = str(error).partition(" : ")
    silent = _SILENT_SENTINEL.findall(rest)
    reason = f"; {len(silent)} of the sentinels do not answer: {', '.join(sorted(set(silent)))}" if silent else ""
    return MasterNotFoundError(first.replace("No master found for", "no master") + reason)


def timed_out(operation: str, deadline: float, *, sent: bool, writes: bool, at: str = "") -> StoreTimeoutError:
    """Return the error of a call that got no answer within its deadline, in seconds, from the server ``at`` there."""
    if sent:
        step = f"no answer from {at}" if at else "no answer"
    else:
        step = f"no connection to {at}" if at else "no connection"
    return StoreTimeoutError(f"{step} within {deadline:g} s", operation=operation, maybe_applied=sent and writes)


def _has_answered(error: Exception) -> bool:
    """Whether an error is what a server has answered: redis-py takes some of them for those of the connection."""
    if isinstance(error, StoreError):
        return error.refused
    return isinstance(error, _ANSWERS) or _NO_DATABASE in str(error)


def not_granted(texts: Sequence[str], what_for: str) -> StoreUnavailableError:
    """Return the error of commands that the user may not run, of what a server said of each; ``what_for`` needs them.

    It names all of them, and what to grant.
    """
    found = [match for text in texts if (match := _NO_RIGHT.search(text))]
    user = next((match[1] for match in found if match[1]), None)
    names = list(dict.fromkeys(match[2] for match in found))
    quoted = ", ".join(f"'{name}'" for name in names)
    who = f"user {user} has" if user else "the user has"
    message = (
        f"{who} no permissions to run the {quoted} command{'' if len(names) == 1 else 's'}, which {what_for} needs; "
        f"grant it: ACL SETUSER {user or '...'} {' '.join(f'+{name}' for name in names)} {_ALL_RIGHTS}"
    )
    fault = StoreUnavailableError(message, operation="rights", maybe_applied=False)
    fault.refused = True
    return fault


def is_denied(text: str) -> bool:
    """Whether a server says that the user may not run a command."""
    return _NO_RIGHT.search(text) is not None


def _meaning(error: Exception) -> tuple[type[StoreError], bool]:
    if isinstance(error, raised.ResponseError) and _REFUSAL.match(str(error)):
        return StoreUnavailableError, True
    if isinstance(error, raised.ResponseError) and (denied := _REFUSED_IN_A_SCRIPT.search(str(error))):
        return StoreUnavailableError, denied[1] in CALLED_BEFORE_WRITES
    if _NO_DATABASE in str(error):
        return StoreUnavailableError, True
    for lower, kind, refused in _MEANINGS:
        if isinstance(error, lower):
            return kind, refused
    return StoreTimeoutError if isinstance(error, TimeoutError) else StoreUnavailableError, False


def _text(error: Exception) -> str:
    """Return the text of an error: that of a server as it is, any other with its type."""
    if isinstance(error, StoreError):
        return of_a_question(error)
    said = _IN_A_SCRIPT.sub("", str(error))
    if isinstance(error, ReplyError):
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _advice(text: str) -> str:
    """Return what to do about an error, if that is known."""
    if found := _NO_RIGHT.search(text):
        user, command = found.groups()
        grant = f"ACL SETUSER {user or '...'} +{command}"
        return f"; grant it: {grant} {_ALL_RIGHTS}"
    return next((f"; {advice}" for pattern, advice in _ADVICE if pattern.search(text)), "")
