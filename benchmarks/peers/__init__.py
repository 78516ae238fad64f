"""Others who do the same work: an adapter each, all with the same small interface. They are in the ``bench`` extra."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from stateful_route.store.transport.script import ScriptCall

Call: TypeAlias = "Callable[[], Awaitable[Any]]"
"""Sends one call of a script, with arguments that are ready, and returns the reply."""

Lookup: TypeAlias = "Callable[[str, str, str], Awaitable[int]]"
"""Returns the pod of a namespace, uid and service that is cached."""


def missing_module(module: str) -> str | None:
    """Return why a module cannot be used; ``None`` if it can."""
    try:
        found = importlib.util.find_spec(module) is not None
    except ValueError:  # it is held back: sys.modules has None for it
        found = False
    return None if found else "not installed: pip install --group bench"


@attrs.frozen(kw_only=True)
class Place:
    """Where a server or a cluster is, and how many callers there will be at once."""

    host: str = "127.0.0.1"
    ports: tuple[int, ...]
    callers: int


@attrs.frozen(kw_only=True)
class ScriptPeer:
    """A client of Redis.

    Attributes:
        name: of its rows.
        module: what is imported of it.
        open: connects to a server; gives what makes a ``Call`` of a call of a script.
        open_cluster: the same for a Redis Cluster; ``None`` if it is not measured there.

    """

    name: str
    module: str
    open: Callable[[Place], AbstractAsyncContextManager[Callable[[ScriptCall], Call]]]
    open_cluster: Callable[[Place], AbstractAsyncContextManager[Callable[[ScriptCall], Call]]] | None = None


@attrs.frozen(kw_only=True)
class CachePeer:
    """A cache in memory.

    Attributes:
        name: of its rows.
        module: what is imported of it.
        open: gives a lookup in a cache of that size and time to live (seconds), filled with the uids and their pods.

    """

    name: str
    module: str
    open: Callable[[Filling], AbstractAsyncContextManager[Lookup]]


@attrs.frozen(kw_only=True)
class Filling:
    """What is put into a cache: the uids of one namespace and service, all linked to one pod."""

    namespace: str
    service: str
    uids: Callable[[], Any]
    pod_index: int
    ttl: float
    size: int
