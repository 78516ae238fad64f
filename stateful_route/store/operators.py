"""The store as operators see it: what the drivers do not ask, because it looks at all that there is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from stateful_route.store.protocol import Store

if TYPE_CHECKING:
    from collections.abc import Mapping

    from stateful_route.pods import PodRequest


@attrs.frozen
class LinkPage:
    """One step of a search for links.

    Attributes:
        uids: those that have a link in that service, or had one a moment ago. Across the steps one may come twice.
        after: where the next step goes on; ``None`` if this was the last one.

    """

    uids: tuple[str, ...]
    after: str | None


@attrs.frozen(kw_only=True)
class ServerFacts:
    """What one server says of itself, and what was measured of it.

    Attributes:
        address: of the server, without a password.
        said: what ``INFO`` says, by name; empty if it does not say anything.
        clock_ahead: seconds by which its clock is ahead of that of this machine, negative if it is behind; ``None`` if
            it does not say.
        clock_within: by how much that may be off, in seconds.
        latency: seconds from a question to its answer, in the median.
        slowest: the same of the slowest of them.
        generations: the generations of the layout of which keys were met in a bounded look; ``None`` if it could not be
            taken.
        namespaces: those of the keys of this layout that were met in the same look, sorted.
        looked_at_all: whether that look came to the end of the keys.
        faults: what went wrong on the way.

    """

    address: str
    said: Mapping[str, str] = attrs.field(factory=dict)
    clock_ahead: float | None = None
    clock_within: float = 0.0
    latency: float | None = None
    slowest: float | None = None
    generations: tuple[int, ...] | None = None
    namespaces: tuple[str, ...] = ()
    looked_at_all: bool = True
    faults: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class StoreFacts:
    """What is known of a store.

    Attributes:
        servers: the primaries.
        denied: the commands that the user may not run, of those that the scripts need.
        refusal: why these could not be tried, or what a trial of a change was refused for; ``None`` if nothing was.
        unproven: why nobody can tell whether a server is the primary still; ``None`` if it is.
        generation: of the layout of the keys that this release writes.
        as_cluster: whether it is used as a cluster, by the URL or the client.
        database: the number of the database that is used.

    """

    servers: tuple[ServerFacts, ...]
    generation: int = 0
    as_cluster: bool = False
    database: int = 0
    denied: tuple[str, ...] = ()
    refusal: str | None = None
    unproven: str | None = None


class OperatorStore(Store, Protocol):
    """What a store may have besides, for ``Operator``; a pod that is told of a request calls ``is_asked``."""

    async def list_services(self, namespace: str) -> list[str]:
        """Return the services of a namespace, sorted: those that have pods or links, or had some of late."""
        ...

    async def scan_links(
        self, namespace: str, service_name: str, *, after: str | None = None, count: int = 500
    ) -> LinkPage:
        """Return the uids of some links of a service, and where to go on: in no order, and not at one moment.

        A link that is there all the time is found. A server looks at some ``count`` of its keys, whatever they are.

        Raises:
            StoreUnavailableError: also if the server at which it was to go on is not a primary any more: begin again.

        """
        ...

    async def ask_pod(self, request: PodRequest) -> None:
        """Keep what is asked of a pod until its deadline, and tell the pod: if it does not listen now, it is not heard.

        After the deadline, by the clock of the store, nothing is kept and nothing told.
        """
        ...

    async def is_asked(self, request: PodRequest) -> bool:
        """Return whether exactly that is asked now: a pod that is told looks, as a message alone is no order."""
        ...

    async def facts(self) -> StoreFacts:
        """Return what each primary says of itself, what was measured of it, and whether the user has its rights.

        It leaves nothing behind, and looks at some 10,000 keys of each primary at most.

        Raises:
            StoreError: if no primary can be reached.

        """
        ...
