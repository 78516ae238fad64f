"""What an operator is told. All are frozen, and have a JSON form with camelCase names."""

from __future__ import annotations

import enum
import json
import math
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._json import camel_case
from stateful_route.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from stateful_route.history import LinkEvent
    from stateful_route.links import Link, LinkInvalidation, LinkKey, LinkKind
    from stateful_route.pods import PodState, PodTable


class Shown:
    """Gives an attrs class ``to_dict()`` and ``to_json()``, for what is only written."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as a dict of plain values."""
        return _plain(self)  # type: ignore[no-any-return]  # of an attrs class that is a dict

    def to_json(self) -> str:
        """Return the JSON form as text, without white space."""
        return json.dumps(self.to_dict(), separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if attrs.has(type(value)):
        return {camel_case(field.name): _plain(getattr(value, field.name)) for field in attrs.fields(type(value))}
    return value


def _passed(seconds: float) -> float:
    """Return a time that has passed, to the millisecond; 0 if the clock was put back since."""
    return round(max(0.0, seconds), 3)


@attrs.frozen(kw_only=True)
class PodSeen(Shown):
    """A pod as it was at one moment.

    Attributes:
        pod_index: the ordinal of the pod.
        incarnation: its newest life.
        state: what it is willing to take: a ``RoutingState``, which is ``SHUTDOWN`` for good once it said goodbye. Else
            ``DEAD`` once its death was confirmed, or ``SILENT`` if no heartbeat came for its lease and nobody has
            confirmed its death yet.
        alive: whether its last heartbeat is younger than its lease.
        routable: whether it may get new uids: alive and READY. A pod that is full is routable.
        heartbeat_age: seconds since its last heartbeat, by the clock of Redis.
        lease: seconds without a heartbeat after which it is dead.
        load: what it published; smaller is better.
        links: how many uids it owned when it last said so, which may lag by some seconds in a large service.
        placed_total: how many uids it took on since it started.
        capacity: its size in relation to the others.
        max_links: with so many links it is full; ``None`` for no limit.
        address: where it is reached; ``None`` if it has not published that.
        zone: where it runs.
        version: what revision of the application it runs.
        draining: whether it gives up all that it owns.
        reclaiming: whether it still claims again what it owned before Redis lost it.
        adopts: whether it takes the states of uids that other pods send.
        pod_name: the name of its process: that of the pod on Kubernetes, or by default host name and process id;
            ``None`` if it is of a release that does not publish it.
        refused_new: how many requests of new uids it has refused since it started, as too many came at once.

    """

    pod_index: int
    incarnation: int
    state: str
    alive: bool
    routable: bool
    heartbeat_age: float
    lease: float
    load: int
    links: int
    placed_total: int
    capacity: float
    max_links: int | None
    address: str | None
    zone: str | None
    version: str | None
    draining: bool
    reclaiming: bool
    adopts: bool
    pod_name: str | None = None
    refused_new: int = 0

    @property
    def full(self) -> bool:
        """Whether it has as many links as it wants."""
        return self.max_links is not None and self.links >= self.max_links

    @classmethod
    def of(cls, pod: PodState, now: float) -> PodSeen:
        """Return the pod as it is at ``now``, by the clock of the store."""
        report, alive = pod.report, pod.is_alive(now)
        state = report.routing_state.value
        if not pod.said_goodbye:
            state = "DEAD" if pod.dead else state if alive else "SILENT"
        return cls(
            pod_index=pod.pod_index,
            incarnation=pod.incarnation,
            state=state,
            alive=pod.is_available(now),
            routable=pod.is_routable(now),
            heartbeat_age=_passed(now - pod.load_state.timestamp),
            lease=pod.load_state.ttl,
            load=report.load,
            links=report.links,
            placed_total=report.placed_total,
            capacity=report.capacity,
            max_links=report.max_links,
            address=report.address,
            zone=report.zone,
            version=report.version,
            draining=report.draining,
            reclaiming=report.reclaiming,
            adopts=report.adopts,
            pod_name=report.pod_name,
            refused_new=report.refused_new,
        )


@attrs.frozen(kw_only=True)
class PodsSeen(Shown):
    """The pods of a service at one moment.

    Attributes:
        at: that moment: seconds since 1970 by the clock of Redis.
        pods: by rising pod index; those that died or said goodbye are among them until Redis forgets them.
        unreadable: how many entries could not be read, and were left out.

    """

    at: float
    pods: tuple[PodSeen, ...]
    unreadable: int = 0

    @classmethod
    def of(cls, table: PodTable) -> PodsSeen:
        """Return what was read."""
        pods = tuple(PodSeen.of(pod, table.now) for pod in table.pods)
        return cls(at=table.now, pods=pods, unreadable=table.unreadable)


def imbalance(pods: Iterable[PodSeen]) -> float | None:
    """Return how much fuller than the mean the fullest pod is, by links for its capacity: 1.0 is even.

    Of those that take new uids: a pod that drains is not to be even. ``None`` if none does, or none has a link; or if
    it is no number, as of a capacity that is next to nothing.
    """
    taking = [pod for pod in pods if pod.routable]
    links, capacity = sum(pod.links for pod in taking), sum(pod.capacity for pod in taking)
    if not links:
        return None
    uneven = max(pod.links / pod.capacity for pod in taking) * capacity / links
    return uneven if math.isfinite(uneven) else None


@attrs.frozen(kw_only=True)
class Place(Shown):
    """Where a uid of one service is.

    Attributes:
        namespace: of the service.
        service_name: the service.
        uid: the uid.
        pod_index: the pod that its link names; ``None``, as are the next four, if the link cannot be read.
        incarnation: the life of that pod; 0 if it was not known when the link was made.
        kind: temporary, persistent or grace.
        epoch: the fencing token.
        age: seconds since the link got that epoch, and so that owner, by the clock of Redis.
        ttl: seconds that were left of the link; ``None`` for one without expiry.
        pod: the pod that the link names, in whatever life; ``None`` if Redis does not know it.
        alive: whether the life that the link names is alive. A newer life of the pod inherits the uid when it claims
            it, and the state of the older one is gone.

    """

    namespace: str
    service_name: str
    uid: str
    pod_index: int | None = None
    incarnation: int | None = None
    kind: LinkKind | None = None
    epoch: int | None = None
    age: float | None = None
    ttl: float | None = None
    pod: PodSeen | None = None
    alive: bool = False

    @classmethod
    def of(cls, key: LinkKey, link: Link, table: PodTable) -> Place:
        """Return where a link leads, of whose pod the table tells."""
        found = next((pod for pod in table.pods if pod.pod_index == link.pod_index), None)
        alive = found is not None and found.incarnation == link.incarnation and found.is_available(table.now)
        return cls(
            namespace=key.namespace,
            service_name=key.service_name,
            uid=key.uid,
            pod_index=link.pod_index,
            incarnation=link.incarnation,
            kind=link.kind,
            epoch=link.epoch,
            age=_passed(table.now - link.epoch / 1_000_000),
            ttl=link.ttl,
            pod=None if found is None else PodSeen.of(found, table.now),
            alive=alive,
        )


@attrs.frozen(kw_only=True)
class PastChange(Shown):
    """A change in the history of a link.

    Attributes:
        at: when, in seconds since 1970, by the clock of Redis.
        why: the text of a ``Why``: placed, taken over, claimed, inherited, stolen, assigned, moved, released or
            overwritten.
        from_pod: who had the link before; ``None`` if nobody did.
        from_incarnation: the life of that pod.
        to_pod: who has it from then on; ``None`` if nobody does.
        to_incarnation: the life of that pod.
        epoch: that the link has from then on; ``None`` if there is none.
        draining: whether it was released, or moved, by an owner that had said that it drains.
        by_operator: whether an operator has asked for it.

    """

    at: float
    why: str
    from_pod: int | None
    from_incarnation: int | None
    to_pod: int | None
    to_incarnation: int | None
    epoch: int | None
    draining: bool
    by_operator: bool = False

    @classmethod
    def of(cls, event: LinkEvent) -> PastChange:
        """Return it as an operator is told."""
        before, after = event.before, event.after
        return cls(
            at=event.time_us / 1_000_000,
            why=event.why.value,
            from_pod=None if before is None else before.pod_index,
            from_incarnation=None if before is None else before.incarnation,
            to_pod=None if after is None else after.pod_index,
            to_incarnation=None if after is None else after.incarnation,
            epoch=event.epoch,
            draining=event.draining,
            by_operator=event.by_operator,
        )


@attrs.frozen
class FoundLink(Shown):
    """A link that a search has found.

    Attributes:
        uid: the uid.
        link: its link, as it was when it was read.

    """

    uid: str
    link: Link


@attrs.frozen(kw_only=True)
class DrainSeen(Shown):
    """What came of a drain that was asked for.

    Attributes:
        before: how many links the pod had when it was asked.
        left: how many it had at the end; 0 once it has given up all of them. It goes on with them.
        seconds: how long that took, or was waited for.
        moved: how many went to another pod with their state; ``None`` if the pod has not said what came of it, as the
            time was over before.
        released: how many were given up without a state to send: it was saved elsewhere, or there was none.
        lost: how many were given up, and their state is lost: no pod took it, it was too large, or their hand-off
            failed.

    """

    before: int
    left: int
    seconds: float
    moved: int | None = None
    released: int | None = None
    lost: int | None = None

    @property
    def whole(self) -> bool:
        """Whether the pod has given up all that it had, and no state is lost."""
        return not self.left and not self.lost


class ChangeKind(enum.StrEnum):
    """What has changed."""

    LINK = "link"
    """A link got another owner, or was removed."""
    POD = "pod"
    """A pod is in another routing state, in another life, or dead."""
    DEAF = "deaf"
    """Nothing is heard any more: what changes from now on is missed."""
    HEARS = "hears"
    """Changes are heard again."""


@attrs.frozen(kw_only=True)
class Change(Shown):
    """What was announced to the clients of a service.

    Attributes:
        kind: what has changed.
        uid: of a link.
        epoch: of a link: what was known of it at that epoch, or an earlier one, is stale.
        link: of a link, as it was soon after that; ``None`` if there was none, or, where a ``why`` says so, it could
            not be read.
        pod_index: of a pod.
        incarnation: of a pod: the life that it is about.
        state: of a pod: a ``RoutingState``, or ``DEAD``; a life that said goodbye is ``SHUTDOWN``, told once.
        why: of ``DEAF``: what is wrong; of a link: why it could not be read.
        pod_name: of a pod, or of the one that has the link: the name of its process, if it is known.

    """

    kind: ChangeKind
    uid: str | None = None
    epoch: int | None = None
    link: Link | None = None
    pod_index: int | None = None
    incarnation: int | None = None
    state: str | None = None
    why: str | None = None
    pod_name: str | None = None

    @classmethod
    def of_link(cls, event: LinkInvalidation, now: Link | StoreError | None) -> Change:
        """Return what was announced of a link, which was read then, or could not be."""
        uid, epoch = event.key.uid, event.epoch
        if isinstance(now, StoreError):
            return cls(kind=ChangeKind.LINK, uid=uid, epoch=epoch, why=str(now))
        return cls(kind=ChangeKind.LINK, uid=uid, epoch=epoch, link=now)

    @classmethod
    def deaf(cls, error: StoreError) -> Change:
        """Return the word that nothing is heard."""
        return cls(kind=ChangeKind.DEAF, why=str(error))


class Level(enum.StrEnum):
    """How bad a finding is."""

    OK = "OK"
    """It is as it should be."""
    WARN = "WARN"
    """It works, and may not for long, or not as well as it could."""
    BAD = "BAD"
    """Something does not work, or may lose links."""


@attrs.frozen
class Finding(Shown):
    """What ``Operator.doctor`` has found.

    Attributes:
        level: how bad it is.
        what: what was found, in one line.
        advice: what to do about it; empty if there is nothing to do.

    """

    level: Level
    what: str
    advice: str = ""
