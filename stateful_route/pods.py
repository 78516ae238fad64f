"""The values of a pod: which it is, in what state, and what is asked of it. All are frozen; absence is ``None``."""

from __future__ import annotations

import enum
from typing import Any, Self

import attrs

from stateful_route import _json
from stateful_route._validation import (
    as_float,
    check_count,
    check_duration,
    check_id,
    check_pod_index,
    check_seconds,
    checked,
    is_bool,
    is_capacity,
    is_count,
)
from stateful_route.errors import InvalidArgumentError


class RoutingState(enum.StrEnum):
    """What a pod is willing to take."""

    READY = "READY"
    """New and linked uids."""
    DENY_NEW_CALL = "DENY_NEW_CALL"
    """Linked uids only: the pod is draining."""
    SHUTDOWN = "SHUTDOWN"
    """Nothing."""

    @classmethod
    def parse(cls, value: object) -> Self:
        """Return the member of that name.

        Raises:
            InvalidArgumentError: if there is none.

        """
        if isinstance(value, str) and value in cls.__members__:
            return cls(value)
        raise InvalidArgumentError("routing_state", value, f"one of {', '.join(cls)}")

    def to_json(self) -> str:
        """Return the JSON form: the name as a JSON string."""
        return f'"{self.value}"'

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Read the JSON form.

        Raises:
            InvalidArgumentError: if it is not JSON, or not the name of a state.

        """
        return cls.parse(_json.parse(text, cls.__name__))


@attrs.frozen(kw_only=True)
class ServerInfo(_json.JsonForm):
    """Which pod this is.

    Attributes:
        namespace: the isolation domain.
        service_name: the stateful service.
        pod_name: the name of the process, for people; the host name of the pod on Kubernetes.
        pod_index: the ordinal of the replica, from 0; ``None`` to lease the lowest one that is free.

    Raises:
        InvalidArgumentError: if an id is blank, over-long or not encodable, or the index is not an int from 0.

    """

    namespace: str = attrs.field(validator=checked(check_id))
    service_name: str = attrs.field(validator=checked(check_id))
    pod_name: str = attrs.field(validator=checked(check_id))
    pod_index: int | None = attrs.field(default=None, validator=checked(check_pod_index, optional=True))


@attrs.frozen
class StateObj(_json.JsonForm):
    """A published load: the value, when it was published, and for how long it counts.

    Attributes:
        value: the load, an int of 0 or more; smaller is better.
        timestamp: seconds since 1970 by the clock of the store, never that of a pod.
        ttl: the lease of the pod in seconds: how long after ``timestamp`` the pod counts as alive.

    Raises:
        InvalidArgumentError: naming the field of a wrong type or range.

    """

    value: int = attrs.field(validator=checked(check_count))
    timestamp: float = attrs.field(converter=as_float, validator=checked(check_seconds))
    ttl: float = attrs.field(converter=as_float, validator=checked(check_duration))

    def left(self, now: float) -> float:
        """Return the seconds that are left of the lease at ``now`` (the clock of the store); negative once it ended."""
        return self.timestamp + self.ttl - now


@attrs.frozen
class PodLife:
    """One life of a pod: a restarted pod with the same index has another incarnation.

    Attributes:
        pod_index: the ordinal of the pod, from 0.
        incarnation: rising with each life, from the clock of the store; 0 if it is not known.

    """

    pod_index: int
    incarnation: int


def _as_routing_state(value: RoutingState | str) -> RoutingState:
    return value if isinstance(value, RoutingState) else RoutingState.parse(value)


def _optional_text() -> Any:
    return attrs.field(default=None, validator=checked(check_id, optional=True))


@attrs.frozen(kw_only=True)
class DrainCounts(_json.JsonForm):
    """What came of the uids in the drain of a pod that has ended last.

    Attributes:
        number: how many drains have ended in this process, this one included.
        moved: uids that went to another pod with their state.
        released: uids that were given up without a state to send: it was saved elsewhere, or there was none.
        lost: uids that were given up and whose state is lost: no pod took it, it was too large, or the hand-off failed.
        left: uids that the pod has still, as their hand-off was cut off, or no pod took their state.

    """

    number: int = attrs.field(default=0, validator=is_count)
    moved: int = attrs.field(default=0, validator=is_count)
    released: int = attrs.field(default=0, validator=is_count)
    lost: int = attrs.field(default=0, validator=is_count)
    left: int = attrs.field(default=0, validator=is_count)


def _as_drain_counts(value: object) -> DrainCounts | None:
    return value if value is None or isinstance(value, DrainCounts) else DrainCounts.from_dict(value)


@attrs.frozen(kw_only=True)
class PodReport(_json.JsonForm):
    """What a heartbeat says of a pod.

    Attributes:
        load: an int of 0 or more; smaller is better.
        routing_state: what the pod is willing to take.
        links: how many uids it owns now.
        placed_total: how many uids it took on since it started; never falls within one incarnation.
        capacity: its size in relation to the other pods; twice the capacity takes twice the load.
        max_links: with so many links it is full and gets no new uids; ``None`` for no limit.
        address: where it is reached, for example a URL; ``None`` if callers know that by the index.
        zone: where it runs.
        version: what revision of the application it runs.
        reclaiming: whether it still claims again what it owned before the store lost it.
        draining: whether it gives up all that it owns, without a word for each uid: nobody caches its links.
        adopts: whether it takes the states of uids that other pods send.
        pod_name: the name of its process, for people; ``None`` if it is of a release that does not say it.
        drained: what came of the drain that has ended last; ``None`` if there was none.
        refused_new: how many requests of new uids it has refused since it started, as too many came at once.

    """

    load: int = attrs.field(default=0, validator=is_count)
    routing_state: RoutingState = attrs.field(default=RoutingState.READY, converter=_as_routing_state)
    links: int = attrs.field(default=0, validator=is_count)
    placed_total: int = attrs.field(default=0, validator=is_count)
    capacity: float = attrs.field(default=1.0, converter=as_float, validator=is_capacity)
    max_links: int | None = attrs.field(default=None, validator=checked(check_count, optional=True))
    address: str | None = _optional_text()
    zone: str | None = _optional_text()
    version: str | None = _optional_text()
    reclaiming: bool = attrs.field(default=False, validator=is_bool)
    draining: bool = attrs.field(default=False, validator=is_bool)
    adopts: bool = attrs.field(default=False, validator=is_bool)
    pod_name: str | None = _optional_text()
    drained: DrainCounts | None = attrs.field(default=None, converter=_as_drain_counts)
    refused_new: int = attrs.field(default=0, validator=is_count)


@attrs.frozen(kw_only=True)
class PodState:
    """A pod as the store knows it.

    Attributes:
        pod_index: the ordinal of the pod.
        incarnation: its newest life.
        report: what its last heartbeat said.
        load_state: the load of that heartbeat, its time by the clock of the store, and its lease.
        dead: whether the death of this incarnation was confirmed, which is final.
        version: that of the table when anything but the time of the heartbeat changed last.

    """

    pod_index: int
    incarnation: int
    report: PodReport
    load_state: StateObj
    dead: bool = False
    version: int = attrs.field(default=0, eq=False)

    @property
    def life(self) -> PodLife:
        """The newest life of the pod."""
        return PodLife(self.pod_index, self.incarnation)

    @property
    def said_goodbye(self) -> bool:
        """Whether that life has left by itself; it may be confirmed to be dead since, as every life is that is over."""
        return self.report.routing_state is RoutingState.SHUTDOWN

    def is_alive(self, now: float) -> bool:
        """Whether its last heartbeat is younger than its lease at ``now``, by the clock of the store."""
        return not self.dead and self.load_state.left(now) > 0

    def is_available(self, now: float) -> bool:
        """Whether the pod may keep its own uids at ``now``: alive and not SHUTDOWN."""
        return self.report.routing_state is not RoutingState.SHUTDOWN and self.is_alive(now)

    def is_routable(self, now: float) -> bool:
        """Whether the pod may get new uids at ``now``: alive and READY."""
        return self.report.routing_state is RoutingState.READY and self.is_alive(now)

    def summary(self, now: float | None = None) -> str:
        """Return what an error message says of the pod, ``now`` by the clock of the store if that is known."""
        state = "dead" if self.dead and not self.said_goodbye else self.report.routing_state.value
        heard = self.load_state.timestamp
        when = f"at {heard:.3f}" if now is None else f"{max(0.0, now - heard):.1f} s ago"
        return f"{state}, last heartbeat {when}, lease {self.load_state.ttl:g} s"


DIGEST_MODULUS = 2**52
"""What digests of the pods of a service wrap at: sums of two of them are exact in Lua."""


@attrs.frozen
class PodTable:
    """The pods of one service, or what has changed in them, read at one moment.

    Attributes:
        now: seconds since 1970 by the clock of the store, at that moment.
        pods: by rising pod index: all, or those that have changed and those that were asked for.
        unreadable: how many entries could not be read and were left out.
        version: of the table at that moment: who asks with it next gets what has changed since; 0 if no changes were
            asked for.
        digest: the sum of the versions of all pods in the store, modulo 2^52. Who has another sum lacks something.
        whole: whether these are all pods.
        overdue: the pods, not confirmed to be dead, whose lease has ended.
        next_deadline: when the next lease ends if no heartbeat comes, by the clock of the store; ``None`` if all are
            overdue or dead. No heartbeat of another pod is older than that less its lease.
        living: how many pods are not confirmed to be dead; 0 if changes were asked for.
        born: when the table was made, in microseconds: another one is of a store that has lost this one. 0 if no
            changes were asked for, or that is not known.
        held_until: until when a pod may live that this table does not have, by the clock of the store: who knew none
            before places no uid that has no link.
        settling_until: until when nobody does, as all pods restart, and those that left a moment ago are awaited.

    """

    now: float
    pods: tuple[PodState, ...]
    unreadable: int = 0
    version: int = attrs.field(default=0, eq=False)
    digest: int = attrs.field(default=0, eq=False)
    whole: bool = True
    overdue: tuple[int, ...] = attrs.field(default=(), eq=False)
    next_deadline: float | None = attrs.field(default=None, eq=False)
    living: int = attrs.field(default=0, eq=False)
    born: int = attrs.field(default=0, eq=False)
    held_until: float = attrs.field(default=0.0, eq=False)
    settling_until: float = attrs.field(default=0.0, eq=False)


@attrs.frozen
class Topic:
    """Who is told of something: the clients of a service, or with ``pod_index`` that pod of it."""

    namespace: str
    service_name: str
    pod_index: int | None = None


@attrs.frozen
class PodChange:
    """The word that a pod is in another routing state, in another life, or dead.

    Attributes:
        namespace: of the service.
        service_name: the service.
        pod_index: the pod.
        incarnation: the life that it is about.
        state: the name of a ``RoutingState``, or ``DEAD``.

    """

    namespace: str
    service_name: str
    pod_index: int
    incarnation: int
    state: str


class Asked(enum.StrEnum):
    """What an operator asks of a pod."""

    MOVE = "move"
    """To let a uid go to a pod that is named."""
    DRAIN = "drain"
    """To take no new uids, and give up all that it has; a state that no pod takes stays, with its uid."""
    FORCE_DRAIN = "force-drain"
    """To do so and keep nothing: a state that no pod takes is lost."""
    UNDRAIN = "undrain"
    """To take new uids again."""


@attrs.frozen(kw_only=True)
class PodRequest:
    """What an operator asks of one pod. It may be heard more than once, or never.

    Attributes:
        namespace: of the service.
        service_name: the service.
        pod_index: the pod that is asked.
        asked: what is asked.
        name: of this request alone: up to 32 ASCII letters and digits.
        deadline: seconds since 1970 by the clock of the store: later it is not to be done any more.
        uid: which uid is to go, if that is asked.
        to: the pod that it is to go to.
        incarnation: the life of the pod that is asked: a newer one does not do it. ``None`` if no life is named.

    """

    namespace: str
    service_name: str
    pod_index: int
    asked: Asked
    name: str
    deadline: float
    uid: str | None = None
    to: int | None = None
    incarnation: int | None = None


LEASED_PROCESS = "leased-"
"""With this begins the name of a process that leases its index; those that pods with ordinals had are not leased."""


@attrs.frozen
class Registration:
    """The answer to a pod that begins a life.

    Attributes:
        incarnation: the number of the new life, above that of every earlier one; 0 if it was refused.
        previous_incarnation: the life before; ``None`` if none is known.
        previous_left: seconds for which an older life of another process, which did not say goodbye, may still
            believe to be alive; 0.0 if there is none.
        own: whether the life before was one of the same process.
        refused: whether another life was there than expected, so that nothing was changed.
        previous_born: the first incarnation of the process of the life before, as far as that process knew it; 0 if
            there is none.
        pod_index: the index of the pod: that which it has, or that which it was given.
        wait: seconds for which to wait, and then to ask again, as nothing is known and others may be about to register
            again; 0.0 if the life has begun, or was refused for another reason.

    """

    incarnation: int
    previous_incarnation: int | None
    previous_left: float
    own: bool = False
    refused: bool = False
    previous_born: int = attrs.field(default=0, eq=False)
    pod_index: int = attrs.field(kw_only=True)
    wait: float = attrs.field(default=0.0, kw_only=True)


class HeartbeatOutcome(enum.StrEnum):
    """The answer to a heartbeat."""

    ACCEPTED = "accepted"
    OUTDATED = "outdated"
    """A later heartbeat of the same life was there before this one, which was dropped."""
    SUPERSEDED = "superseded"
    """A newer incarnation of the same index exists: this life owns nothing any more."""
    DEAD = "dead"
    """The death of this incarnation was confirmed: the pod has to begin another life."""
    UNKNOWN = "unknown"
    """The store does not know this incarnation (it lost it): the pod has to begin another life."""
