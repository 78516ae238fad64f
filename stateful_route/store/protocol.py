"""The store as the drivers see it: one method an operation, each atomic and one round trip.

The life of a link, by operation and by what is there. "dead" and "leaving" are lists of pod lives that the
caller knows to be dead, or draining or shut down. A life is among the dead if that list has the same pod with
the same or a newer incarnation: what is older than a dead life is superseded, and owns nothing either.

=============================  ===============  ======================  ======================  ======================
operation                      absent           temporary               persistent              grace
=============================  ===============  ======================  ======================  ======================
place                          CREATED or LOST  RENEWED                 UNCHANGED               REVIVED
- owner is among the dead                       REPLACED                REPLACED                REPLACED
- owner is leaving                              RENEWED                 UNCHANGED               REPLACED
claim, the same life           CREATED          CONFIRMED               UNCHANGED               CONFIRMED
- an older life of the owner                    SUPERSEDED              SUPERSEDED              SUPERSEDED
- a newer life of the owner                     INHERITED               INHERITED               INHERITED
- another pod                                   REFUSED                 REFUSED                 REFUSED
- another pod, stealing                         REPLACED                REFUSED                 REPLACED
release, it matches            ABSENT           RELEASED                RELEASED                RELEASED
- with grace                   ABSENT           GRACE                   GRACE                   GRACE
- it does not match            ABSENT           REFUSED                 REFUSED                 REFUSED
assign                         CREATED          CONFIRMED or REPLACED   UNCHANGED or REPLACED   CONFIRMED or REPLACED
- not the expected epoch       REFUSED          REFUSED                 REFUSED                 REFUSED
- an older life of the owner                    SUPERSEDED              SUPERSEDED              SUPERSEDED
move, it matches               ABSENT           REFUSED                 REPLACED                REFUSED
- it does not match            ABSENT           REFUSED                 REFUSED                 REFUSED
=============================  ===============  ======================  ======================  ======================

A value that cannot be read: place, claim and assign OVERWRITE it; release and move leave it (UNREADABLE); get raises.
It has no epoch, so an assign that expects one is REFUSED.
Every operation is safe to run twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from stateful_route.errors import StoreError
    from stateful_route.history import LinkEvent
    from stateful_route.links import Link, LinkChange, LinkKey, TopicEvent
    from stateful_route.pods import (
        HeartbeatOutcome,
        PodLife,
        PodReport,
        PodTable,
        Registration,
        ServerInfo,
        Topic,
    )


@attrs.frozen
class StoreInfo:
    """What a store says of itself.

    Attributes:
        product: for example ``"valkey 9.1.2"``.
        eviction_policy: the server's ``maxmemory-policy``; ``None`` if it does not say.
        replicas: how many are connected to the server; ``None`` if it does not say.

    """

    product: str
    eviction_policy: str | None
    replicas: int | None = None

    @property
    def may_evict_links(self) -> bool:
        """Whether the server may delete links by itself when its memory is full."""
        return self.eviction_policy not in {None, "noeviction"}


class Store(Protocol):
    """Where links and pods are kept.

    Arguments are valid when they get here: the drivers check what users give.
    Seconds are floats; a ``ttl`` or a lease is at least a millisecond.

    Every method raises ``StoreUnavailableError`` or ``StoreTimeoutError`` within the deadline of the store,
    with ``maybe_applied`` saying whether the operation may have happened, and ``StoreProtocolError`` for a reply
    that makes no sense; if the store waits for replicas, ``NotReplicatedError`` for a change that none had in time.
    A method never runs an operation again of which it does not know whether it ran.
    """

    async def get_link(self, key: LinkKey) -> Link | None:
        """Return the link, or ``None``.

        Raises:
            StoreProtocolError: if the value cannot be read.

        """
        ...

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """Return the link, ``None`` or the error of each uid, in their order.

        It raises no ``StoreError`` itself.
        """
        ...

    async def get_services(self, namespace: str, uid: str) -> dict[str, int]:
        """Return the pod index of each service to which the uid is linked, in whatever kind."""
        ...

    @property
    def places_together(self) -> bool:
        """Whether ``place_links`` is one question to one server, so that what holds up one uid holds up all anyway."""
        ...

    async def place(
        self,
        key: LinkKey,
        candidate: PodLife,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
        born: int = 0,
    ) -> LinkChange:
        """Return the link of the uid, made for ``candidate`` (temporary, ``ttl`` seconds) if there is none.

        A temporary link is renewed to at least ``ttl`` seconds, and never shortened. ``candidate`` is not among
        the dead. ``born`` is that of the ``PodTable`` that the caller knows: if the store has another one, it has lost
        that, and none is made: ``LOST``. (It is not looked at on a cluster, where pods and links are on many servers.)
        """
        ...

    async def place_links(
        self,
        namespace: str,
        candidates: Sequence[tuple[str, PodLife]],
        service_name: str,
        ttl: float,
        *,
        dead: Sequence[PodLife] = (),
        leaving: Sequence[PodLife] = (),
        born: int = 0,
    ) -> list[LinkChange | StoreError]:
        """Place many uids, each with its own candidate; return the answer or the error of each, in their order.

        It raises no ``StoreError`` itself.
        """
        ...

    async def claim(self, key: LinkKey, owner: PodLife, *, steal_temporary: bool = False) -> LinkChange:
        """Make the link persistent for ``owner``, if there is none or it is its own.

        With ``steal_temporary`` a temporary or grace link of another pod is taken too. The answer tells which
        link of the uid was released, removed or taken over last: ``LinkChange.ended``; and if the link was moved to
        that life, and is persistent since, by which move: ``LinkChange.move``.
        """
        ...

    async def release(
        self,
        key: LinkKey,
        *,
        pod_index: int | None = None,
        incarnation: int | None = None,
        epoch: int | None = None,
        grace: float = 0.0,
        announced: bool = True,
        by_operator: bool = False,
    ) -> LinkChange:
        """Remove the link if it is held by that pod, incarnation and epoch; ``None`` matches any.

        It need not be announced if the pod is draining, and the store knows that. ``by_operator``, here and below, is
        for the history: an operator has asked for it.

        With ``grace`` above 0 the link still resolves for so many seconds, or for what was left of it if that is less.
        """
        ...

    async def assign(
        self, key: LinkKey, owner: PodLife, *, expected_epoch: int | None = None, by_operator: bool = False
    ) -> LinkChange:
        """Make the link persistent for ``owner``, whoever holds it, if its epoch is the expected one.

        A newer life of the same pod keeps it: the call has arrived late. (Incarnation 0 is a life that is not known.)
        """
        ...

    async def move(
        self,
        key: LinkKey,
        owner: PodLife,
        epoch: int,
        to: PodLife,
        *,
        name: str,
        announced: bool = True,
        by_operator: bool = False,
    ) -> LinkChange:
        """Make the persistent link that ``owner`` has at that epoch one of ``to``, another pod, with a new epoch.

        ``name`` is that of this attempt alone: up to 32 ASCII letters and digits. If the link is there already by this
        very move, as the question came twice, it is UNCHANGED, for ``ENDED_TENURE_SECONDS``. It need not be announced
        if the pod is draining, and the store knows that.
        """
        ...

    async def history(self, key: LinkKey) -> list[LinkEvent]:
        """Return what has become of the link, the oldest first: as many of its last changes as are kept.

        Each operation that changed the link by a store that keeps histories has left an entry, in the same step; one
        that found its work done has not, nor has one that only gave the link more time. A link that is gone has its
        history still. Entries that cannot be read, as those of another release may be, are left out. Of a link that was
        changed only by stores that keep none there is nothing.
        """
        ...

    async def register(
        self,
        server: ServerInfo,
        report: PodReport,
        lease: float,
        retention: float,
        *,
        process: str = "",
        expected: int | None = None,
        above: int = 0,
        can_wait: bool = False,
    ) -> Registration:
        """Begin a life of a pod: take an incarnation and publish the first heartbeat.

        A server without an index is given the lowest one that nobody can have: no life of it is known; or its last one,
        of a process whose name begins with ``models.LEASED_PROCESS`` too, said goodbye or is confirmed dead, and no
        older one may own any more. If the same process was given one, as its question came twice, it is given that
        again; and it is refused after its goodbye.

        With ``expected`` it does so only in place of the life with that incarnation (0: if there is none), so that a
        call that arrives late, after another one, changes nothing. ``process`` is a name without white space, behind
        the first incarnation of the process and a colon if it has had one: a life of the same process is not one that
        has to end before the new one may own, and of two processes the one that was born later is the newer one. The
        incarnation is higher than ``above``, which a store that was lost, and whose clock was put back, does not know.
        Entries of pods that have said nothing for ``retention`` seconds are dropped on the way.

        The first pod of a service that ``can_wait`` is told to, and to ask again, if the store may have lost others
        that live: its server has just started, or they listen to it. That others lived is known once one of them
        registers again; ``PodTable.held_until`` says so. A server without an index that ``can_wait`` is told to until
        these others have had the time to register again, 1.5 s at most: their indexes only seem to be free.
        """
        ...

    async def heartbeat(
        self, server: ServerInfo, incarnation: int, sequence: int, report: PodReport, lease: float, retention: float
    ) -> HeartbeatOutcome:
        """Publish a heartbeat. ``sequence`` rises with each of one life, so that a late one overwrites nothing.

        A change of the routing state is announced. The report is what others read from then on; only that in a service
        of more than 4 living pods a small change of a number (load, links, placed in total) shows later: a change by
        2 % after a second, or after as many as there are hundreds of pods, and any after four times that.
        """
        ...

    async def confirm_death(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """Return whether that life of a pod is dead, and make it so if its lease has passed or it said goodbye.

        By the clock of the store. Death is final for an incarnation: its heartbeats are refused from then on. It is
        announced. A life that the store does not know, and no newer one of the pod, is dead.
        """
        ...

    async def end_life(self, namespace: str, service_name: str, life: PodLife, retention: float) -> bool:
        """End that life of a pod, whose process is known to be gone; return whether it has ended.

        The lease is not waited for; all else is as for a confirmed death, and it is announced. A newer life of the pod
        is left alone, as is one that said goodbye; what is superseded, was confirmed to be dead, or is not known, has
        ended. ``False`` if an older life of the pod may still own, until the lease of that has ended; or if the entry
        cannot be read. Nothing is changed then.
        """
        ...

    def listen(self, topic: Topic, patience: float) -> AbstractAsyncContextManager[AsyncIterator[TopicEvent | None]]:
        """Subscribe to what the clients of a service, or one of its pods, are told.

        That is changes of owner and removed links, lives and routing states of pods; a pod hears what others have done
        to its links and its life. Nothing is said of a link of a life that is dead, drains, or is not the newest of
        its pod: nobody uses such a link without asking.

        Entering returns once the subscription stands; from then on nothing that is announced is missed. The iterator
        gives the events, and ``None`` as a sign of life; if ``patience`` seconds bring nothing it asks for
        one, and if as many more bring nothing, or the connection is lost, it raises ``StoreUnavailableError``.
        """
        ...

    async def read_pods(
        self, namespace: str, service_name: str, *, since: int | None = 0, also: Sequence[int] = ()
    ) -> PodTable:
        """Return the pods of a service, or those that changed after version ``since`` of the table, and ``also`` these.

        Who has version 0, or one that the store does not know any more, gets all. With ``since=None`` no changes come,
        and no version: only which leases have ended, and when the next one does. Entries that cannot be read are left
        out and counted. What the answer costs is in proportion to the pods in it.
        """
        ...

    async def info(self) -> StoreInfo:
        """Return what the store is, and whether it may lose links by itself."""
        ...

    async def aclose(self) -> None:
        """Close what the store opened itself. Safe to call twice."""
        ...


class TopicListener(Protocol):
    """Is told what is announced on a topic, at once: its methods neither wait nor raise."""

    def begin(self) -> None:
        """Take in that each event is heard from now on: one before may have been missed."""
        ...

    def take_in(self, event: TopicEvent) -> None:
        """Take in what was announced."""
        ...

    def lose(self, error: StoreError) -> None:
        """Take in that nothing is heard until ``begin``. It may be told again, for another reason."""
        ...


class SharesSubscription(Protocol):
    """What a store may have besides: one subscription for many topics, without a task for each of them.

    Over a store that has only ``Store.listen`` a client runs a task for each service.
    """

    def attach(self, topic: Topic, patience: float, listener: TopicListener) -> Callable[[], Awaitable[None]]:
        """Listen to a topic until the function that is returned is called, and awaited.

        A subscription that is lost, or refused, is made again by the store, with back-off. ``patience`` is that of
        ``Store.listen``.
        """
        ...
