"""What drivers, middleware and gateway tell as it happens: the hook ``instrumentation=`` and its events."""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._log import PACKAGE, Log, LogOnce, log
from stateful_route._validation import MAX_POD_INDEX, check_hook, check_int
from stateful_route.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.links import PreviousOwner
    from stateful_route.pods import HeartbeatOutcome


class Why(enum.StrEnum):
    """Why a link changed."""

    PLACED = "placed"
    """It was made by a client, as the uid had none."""
    TAKEN_OVER = "taken over"
    """Its owner was dead, or left it in grace and was leaving: a client gave it to another pod."""
    CLAIMED = "claimed"
    """Its pod made or confirmed it."""
    INHERITED = "inherited"
    """A newer life of its pod claimed it."""
    STOLEN = "stolen"
    """Another pod claimed it before its own had confirmed it: ``try_set_linked_pod``."""
    ASSIGNED = "assigned"
    """It was forced: ``set_linked_pod``."""
    MOVED = "moved"
    """Its owner sent it to another pod, with its state."""
    RELEASED = "released"
    """Its owner gave it up, or it was removed."""
    OVERWRITTEN = "overwritten"
    """Its value could not be read, and was replaced."""


@attrs.frozen(kw_only=True)
class LinkChanged:
    """This process has changed a link.

    Attributes:
        namespace, service_name, uid: of the link.
        why: why.
        pod_index: who has it now; ``None`` if nobody does.
        epoch: that it has now; ``None`` if there is no link.
        previous: who had it before, if that was another life or pod.

    """

    namespace: str
    service_name: str
    uid: str
    why: Why
    pod_index: int | None
    epoch: int | None
    previous: PreviousOwner | None = None


@attrs.frozen(kw_only=True)
class StoreCalled:
    """A call to the store has ended.

    Attributes:
        operation: its name, as in ``StoreError.operation``.
        namespace, service_name: what it was about.
        seconds: how long it took.
        error: why it failed; ``None`` if it did not.

    """

    operation: str
    namespace: str
    service_name: str
    seconds: float
    error: BaseException | None = None


@attrs.frozen(kw_only=True)
class HeartbeatSent:
    """A heartbeat was answered, or has failed.

    Attributes:
        namespace, service_name, pod_index, incarnation: whose it is; the index is ``None`` if the pod has leased none.
        seconds: how long the answer took.
        outcome: what the store says of it; ``None`` if it failed.
        error: why it failed; ``None`` if it did not.

    """

    namespace: str
    service_name: str
    pod_index: int | None
    incarnation: int
    seconds: float
    outcome: HeartbeatOutcome | None = None
    error: BaseException | None = None


@attrs.frozen(kw_only=True)
class PodDied:
    """The store says, asked by this process, that a life of a pod has ended.

    Attributes:
        namespace, service_name, pod_index, incarnation: whose it was.
        proven: whether its process was known to be gone; else its lease has passed.

    """

    namespace: str
    service_name: str
    pod_index: int
    incarnation: int
    proven: bool


@attrs.frozen(kw_only=True)
class HearingLost:
    """Invalidations of a service are not heard any more: what is cached of it is not used.

    Attributes:
        namespace, service_name: of the service.
        error: why.

    """

    namespace: str
    service_name: str
    error: BaseException


@attrs.frozen(kw_only=True)
class HearingRegained:
    """Invalidations of a service are heard again.

    Attributes:
        namespace, service_name: of the service.
        seconds: for how long they were not.

    """

    namespace: str
    service_name: str
    seconds: float


@attrs.frozen(kw_only=True)
class HandedOff:
    """``hand_off`` of the application has ended for a uid.

    Attributes:
        namespace, service_name, uid: of the link.
        seconds: how long it took.
        error: what it raised; ``None`` if it did not.

    """

    namespace: str
    service_name: str
    uid: str
    seconds: float
    error: BaseException | None = None


@attrs.frozen(kw_only=True)
class Drained:
    """A drain has ended.

    Attributes:
        namespace, service_name, pod_index: of the pod; the index is ``None`` if it has leased none.
        handed_over: how many uids it has handed over.
        left: how many it has not.
        seconds: how long it took.
        moved: how many of those that it has handed over went to another pod with their state.
        states_lost: how many of those have lost their state.

    """

    namespace: str
    service_name: str
    pod_index: int | None
    handed_over: int
    left: int
    seconds: float
    moved: int = 0
    states_lost: int = 0


@attrs.frozen(kw_only=True)
class RequestForwarded:
    """A request was carried to the pod that has its uid.

    Attributes:
        service_name, uid, pod_index: where it went; ``uid`` is ``None`` of a request that has none.
        seconds: from its arrival there until its answer had ended; of a WebSocket, until that had.
        served: whether it was served there; else it may be held, and tried again.

    """

    service_name: str
    uid: str | None
    pod_index: int
    seconds: float
    served: bool


@attrs.frozen(kw_only=True)
class RequestHeld:
    """A request was held, as its uid could not be served for the moment, and that has ended.

    Attributes:
        service_name: of the service.
        seconds: for how long.
        served: whether it was served then.
        why: why it was held.

    """

    service_name: str
    seconds: float
    served: bool
    why: str


class Instrumentation:
    """What is told as it happens. Subclass it and override what you want to hear.

    The methods are called in the event loop, with that event: they must not wait. What one raises is logged, and
    changes nothing. Hits are not told: ``statistics()`` counts them.
    """

    def link_changed(self, event: LinkChanged) -> None:
        """Hear that this process has changed a link."""

    def store_called(self, event: StoreCalled) -> None:
        """Hear that a call to the store has ended, in the context of who made it."""

    def heartbeat_sent(self, event: HeartbeatSent) -> None:
        """Hear that a heartbeat was answered, or has failed."""

    def pod_died(self, event: PodDied) -> None:
        """Hear that a life of a pod has ended."""

    def hearing_lost(self, event: HearingLost) -> None:
        """Hear that invalidations are not heard any more."""

    def hearing_regained(self, event: HearingRegained) -> None:
        """Hear that they are heard again."""

    def handed_off(self, event: HandedOff) -> None:
        """Hear that ``hand_off`` has ended for a uid."""

    def drained(self, event: Drained) -> None:
        """Hear that a drain has ended."""

    def request_forwarded(self, event: RequestForwarded) -> None:
        """Hear that a request was carried to another pod."""

    def request_held(self, event: RequestHeld) -> None:
        """Hear that a request was held, and no longer is."""


_TEXTS: dict[str, Callable[[Any], str]] = {
    "link_changed": lambda event: (
        "%(uid)r of %(service_name)r was %(why)s: "
        + ("no pod has it" if event.pod_index is None else "pod %(pod_index)d has it, at epoch %(epoch)s")
        + ("" if event.previous is None else "; before it was pod %(previous_pod_index)d")
    ),
    "store_called": lambda event: f"%(operation)s of %(service_name)r {_took(event)}",
    "heartbeat_sent": lambda event: f"a heartbeat of pod %(pod_index)s of %(service_name)r {_took(event)}",
    "pod_died": lambda event: (
        "pod %(pod_index)d of %(service_name)r has died: "
        + ("its process is gone" if event.proven else "its lease has passed")
    ),
    "hearing_lost": lambda _: "invalidations of %(service_name)r are lost: %(error)s",
    "hearing_regained": lambda _: "invalidations of %(service_name)r were lost for %(seconds).3f s",
    "handed_off": lambda event: f"the hand-off of %(uid)r of %(service_name)r {_took(event)}",
    "drained": lambda _: (
        "pod %(pod_index)s of %(service_name)r has drained in %(seconds).3f s: %(handed_over)d uids handed over, "
        "%(states_lost)d of them without their state, %(left)d left"
    ),
    "request_forwarded": lambda event: (
        f"a request of %(uid)r was {_served(event)} by pod %(pod_index)d of %(service_name)r, in %(seconds).3f s"
    ),
    "request_held": lambda event: (
        f"a request to %(service_name)r was held for %(seconds).3f s (%(why)s), and {_served(event)}"
    ),
}
"""What is logged of each event, by its method."""
_BUSY = {"store_called", "heartbeat_sent", "request_forwarded"}  # they come all the time


def _served(event: Any) -> str:
    return "served" if event.served else "not served"


def _took(event: Any) -> str:
    return "took %(seconds).3f s" if event.error is None else "failed after %(seconds).3f s: %(error)s"


class LogEvents(Instrumentation):
    """Logs each event, under the name of its method and with its values: an audit trail of takeovers and moves.

    Give it as ``instrumentation``; subclass it to hear of some yourself.
    """

    def __init__(
        self, *, level: int = logging.INFO, busy_level: int = logging.DEBUG, logger: logging.Logger | None = None
    ) -> None:
        """Log to ``logger``.

        Args:
            level: at which events are logged, as ``logging`` counts.
            busy_level: at which those are that come all the time: ``store_called``, ``heartbeat_sent`` and
                ``request_forwarded``.
            logger: where to; by default that of the package, ``logging.getLogger("stateful_route")``.

        Raises:
            InvalidArgumentError: if a level is not an int from 1, or the logger is not one of ``logging``.

        """
        check_int("level", level, 1, MAX_POD_INDEX)
        check_int("busy_level", busy_level, 1, MAX_POD_INDEX)
        if not isinstance(logger, logging.Logger | None):  # an adapter may drop the fields
            raise InvalidArgumentError("logger", logger, "a logging.Logger")
        self._level = level
        self._busy_level = busy_level
        self._log = Log(logging.getLogger(PACKAGE) if logger is None else logger)


def _logging(name: str, text: Callable[[Any], str]) -> Callable[[LogEvents, Any], None]:
    def log_event(self: LogEvents, event: Any) -> None:
        level = self._busy_level if name in _BUSY else self._level
        self._log.log(level, name, text(event), **_fields(event))

    log_event.__code__ = log_event.__code__.replace(co_name=name)  # ``funcName`` of what is logged
    return log_event


for _name, _text in _TEXTS.items():
    setattr(LogEvents, _name, _logging(_name, _text))


def _fields(event: attrs.AttrsInstance) -> dict[str, Any]:
    """Return the values of an event by their names; those of a value within it have its name before theirs."""
    fields: dict[str, Any] = {}
    for name, value in attrs.asdict(event, recurse=False).items():
        if attrs.has(type(value)):
            fields |= {f"{name}_{inner}": within for inner, within in _fields(value).items()}
        else:
            fields[name] = value
    return fields


_METHODS = tuple(name for name in vars(Instrumentation) if not name.startswith("_"))


class Teller(Instrumentation):
    """Calls a hook, and lets no fault of it get at who tells. An object may have some of the methods only."""

    def __init__(self, hook: object) -> None:
        """Tell ``hook``; ``InvalidArgumentError`` if it has none of the methods."""
        check_hook("instrumentation", hook, _METHODS)
        self._faults = LogOnce()
        for name in _METHODS:
            method = getattr(hook, name, None)
            if method is not None:
                setattr(self, name, self._guarded(name, method))

    def _guarded(self, name: str, method: Callable[[Any], Any]) -> Callable[[Any], None]:
        def tell(event: Any) -> None:
            try:
                method(event)
            except Exception:  # noqa: BLE001 - the application's
                if self._faults.first(name):
                    log.exception(
                        "instrumentation_failed",
                        "instrumentation: %(method)s() failed; it is called on, and this is not logged again",
                        method=name,
                    )

        return tell


def teller_of(hook: object) -> Teller | None:
    """Return what tells ``hook``; ``None`` if there is none.

    Raises:
        InvalidArgumentError: if it has none of the methods of ``Instrumentation``.

    """
    return hook if hook is None or isinstance(hook, Teller) else Teller(hook)
