"""Every error that the package raises.

::

    StatefulRouteError
    +- InvalidArgumentError (ValueError)   refused before anything is sent
    +- ConfigError (ValueError)            a setting, a URL or the environment is wrong
    +- LifecycleError (RuntimeError)       used outside its block, started twice, from another event loop
    +- StoreError                          the store did not do what was asked
    |  +- StoreUnavailableError            it cannot be reached, or refuses to work now
    |  +- StoreTimeoutError                no answer within the deadline of the call
    |  +- NotReplicatedError               it did it, and with ``durable`` no replica is known to have that yet
    |  +- StoreProtocolError               a reply, or a value in the store, that cannot be read
    |  +- BatchError                       it did not do it for some of the uids of a batch, and did for the others
    +- RoutingError                        the store answered; the answer is that it cannot be done
       +- NoRoutablePodError               no pod may take the uid
       +- NoCapacityError                  pods may, and all of them are full
       +- NotOwnerError                    another pod owns the uid
       +- StateRefusedError                a pod does not take the state of a uid, which another one has sent
       +- OrderRefusedError                what an operator asks for cannot be done

An expected "no" (a refused claim, a link that is absent) is a value, not an error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stateful_route.pods import PodState

_SHOWN = 120
_UNCHANGED = " (nothing was changed)"


def _shown(value: object) -> str:
    """Return the repr of ``value``, cut to a length that fits a log line."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


class StatefulRouteError(Exception):
    """The base of every error of this package. They survive pickling, so that they cross processes."""

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild the error from its text and its attributes: its constructor takes other arguments."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[StatefulRouteError], args: tuple[object, ...], state: dict[str, object]) -> StatefulRouteError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InvalidArgumentError(StatefulRouteError, ValueError):
    """An argument was refused before anything was sent.

    Attributes:
        argument: the name of the argument or field.
        value: what was given.
        allowed: what would have been accepted, in words.

    """

    def __init__(self, argument: str, value: object, allowed: str) -> None:
        """Name the argument, the value given and what is allowed."""
        super().__init__(f"{argument} is {_shown(value)}; allowed is {allowed}")
        self.argument = argument
        self.value = value
        self.allowed = allowed


class ConfigError(StatefulRouteError, ValueError):
    """A setting, a URL or an environment variable is wrong.

    Attributes:
        setting: the name of the setting, or of the environment variable.
        value: what was given.
        allowed: what would have been accepted, in words.

    """

    def __init__(self, setting: str, value: object, allowed: str) -> None:
        """Name the setting, the value given and what is allowed."""
        super().__init__(f"{setting} is {_shown(value)}; allowed is {allowed}")
        self.setting = setting
        self.value = value
        self.allowed = allowed


class LifecycleError(StatefulRouteError, RuntimeError):
    """An object was used outside its block, started twice, or used from another event loop."""


class StoreError(StatefulRouteError):
    """The store did not do what was asked. The lower error is the ``__cause__``.

    Attributes:
        operation: the name of the operation, for example ``"place"``.
        maybe_applied: ``False`` if the operation certainly changed nothing;
            ``True`` if it was sent and its outcome is unknown.
        refused: whether the server answered, and said no: the user lacks a right, it is read-only, its memory is full.
            ``False`` if it did not answer, or it is not known.

    """

    refused: bool = False

    def __init__(self, message: str, *, operation: str, maybe_applied: bool) -> None:
        """Say what failed, in which operation, and whether it may have been applied."""
        outcome = " (it may have been applied)" if maybe_applied else _UNCHANGED
        super().__init__(f"{operation}: {message}{outcome}")
        self.operation = operation
        self.maybe_applied = maybe_applied


def of_a_question(error: StoreError | str) -> str:
    """Return what an error says of what changes nothing anyway: without that nothing was changed."""
    return str(error).removesuffix(_UNCHANGED)


class StoreUnavailableError(StoreError):
    """The store cannot be reached, or refuses to work at the moment."""


class StoreTimeoutError(StoreError):
    """The store did not answer within the deadline of the call."""


class NotReplicatedError(StoreError):
    """The store did what was asked, and too few replicas had it in time: a failover now may lose it.

    Only with the setting ``durable``. To try again is safe. The store is not away: it has answered.

    Attributes:
        replicas: how many replicas had it; below the one that is waited for.

    """

    def __init__(self, message: str, *, operation: str, maybe_applied: bool = True, replicas: int = 0) -> None:
        """Say what was waited for, of which operation, and how many replicas had it."""
        super().__init__(message, operation=operation, maybe_applied=maybe_applied)
        self.replicas = replicas


class StoreProtocolError(StoreError):
    """A reply of the store, or a value found in it, cannot be read."""


class BatchError(StoreError):
    """The store did not answer for some of the uids of a batch. The first error is the ``__cause__``.

    Attributes:
        links: the other uids, by pod index: what the call would have returned of them.
        errors: the error of each uid for which it did not.

    """

    def __init__(self, links: dict[int, list[str]], errors: dict[str, StoreError]) -> None:
        """Take what was found, and the errors, of which there is one at least."""
        uid, first = next(iter(errors.items()))
        super().__init__(
            f"no answer for {len(errors)} of the uids, the first of them {_shown(uid)}: {type(first).__name__}",
            operation=first.operation,
            maybe_applied=any(error.maybe_applied for error in errors.values()),
        )
        self.links = links
        self.errors = errors


class RoutingError(StatefulRouteError):
    """The store answered, and the answer is that the call cannot be served."""


_NO_PODS = "none was ever seen (is one started, for this namespace, this service and this database of Redis?)"


class NoRoutablePodError(RoutingError):
    """No pod of the service may take a new uid.

    Attributes:
        namespace: the namespace of the service.
        service_name: the service.
        pods: what is known of its pods, by pod index; empty if none was ever seen.
        reclaiming: the pods that have not claimed again what they own, after the store has lost its links: until they
            have, or their leases have ended, a uid without a link may be one of theirs. Empty in all other cases.

    """

    def __init__(
        self,
        namespace: str,
        service_name: str,
        pods: Sequence[PodState] = (),
        now: float | None = None,
        *,
        reclaiming: Sequence[int] = (),
    ) -> None:
        """Name the service and what is known of its pods, ``now`` by the clock of the store."""
        known = ", ".join(f"{pod.pod_index}: {pod.summary(now)}" for pod in pods) or _NO_PODS
        message = f"no routable pod of {service_name!r} in namespace {namespace!r}"
        if reclaiming:
            numbers = ", ".join(map(str, reclaiming))
            message += (
                f" yet: Redis has lost its links, and the uid may belong to a pod that has not claimed"
                f" its own again ({numbers})"
            )
        super().__init__(f"{message}; pods: {known}")
        self.namespace = namespace
        self.service_name = service_name
        self.pods = tuple(pods)
        self.reclaiming = tuple(reclaiming)


class NoCapacityError(RoutingError):
    """Pods of the service take new uids, and all of them are full: they have ``max_links`` links.

    Attributes:
        namespace: the namespace of the service.
        service_name: the service.
        pods: what is known of its pods, by pod index.

    """

    def __init__(
        self, namespace: str, service_name: str, pods: Sequence[PodState] = (), now: float | None = None
    ) -> None:
        """Name the service and what is known of its pods, ``now`` by the clock of the store."""
        known = ", ".join(f"{pod.pod_index}: {_links(pod, now)}" for pod in pods)
        super().__init__(
            f"all routable pods of {service_name!r} in namespace {namespace!r} are full, "
            f"with what this client has placed since they said so; pods: {known}"
        )
        self.namespace = namespace
        self.service_name = service_name
        self.pods = tuple(pods)


def _links(pod: PodState, now: float | None) -> str:
    report = pod.report
    return (
        f"{report.links} of {report.max_links} links"
        if report.routing_state == "READY" and not pod.dead
        else pod.summary(now)
    )


class NotOwnerError(RoutingError):
    """This pod does not own the uid.

    Attributes:
        uid: the uid that was asked for.
        pod_index: the pod that owns it, or ``None`` if nobody is known to.
        epoch: the epoch at which that pod owns it, or ``None``.
        full: whether this pod has no room for it: it has ``max_links`` uids already, and ``max_links_is_hard``. The uid
            was not placed here for good: its next call goes elsewhere.

    """

    def __init__(self, uid: str, pod_index: int | None, epoch: int | None, *, full: bool = False) -> None:
        """Name the uid and its owner as far as it is known."""
        owner = "nobody is known to own it" if pod_index is None else f"pod {pod_index} owns it at epoch {epoch}"
        super().__init__(f"this pod does not own {_shown(uid)}: {owner}{'; this pod is full' if full else ''}")
        self.uid = uid
        self.pod_index = pod_index
        self.epoch = epoch
        self.full = full


class StateRefusedError(RoutingError):
    """A pod does not take the state of a uid that another one has sent: that has the uid still.

    Attributes:
        uid: the uid.
        why: why not.

    """

    def __init__(self, uid: str, why: str) -> None:
        """Name the uid, and say why."""
        super().__init__(f"the state of {_shown(uid)} is not taken: {why}")
        self.uid = uid
        self.why = why


Refusal = Literal["no_link", "not_alive", "takes_nothing", "no_other_pod", "not_answering"]
"""Why an order of an operator is refused: the ``reason`` of an ``OrderRefusedError``."""

_REFUSALS: dict[Refusal, str] = {
    "not_alive": "is not alive: {why}",
    "takes_nothing": "takes no new uids: {why}",
    "no_other_pod": (
        "is not drained, as no other pod takes its uids: {why}. Start or undrain another one first; to drain it "
        "all the same, force it: states are lost then"
    ),
    "not_answering": "has not done within {seconds:g} s what was asked, to {asked}: {why}",
}


class OrderRefusedError(RoutingError):
    """What an operator asks for cannot be done, or was not done in time.

    The reasons:

    - ``"no_link"``: the uid has no link in the service. There is no ``pod_index``.
    - ``"not_alive"``: the pod is dead, has said goodbye, or is not known; or that life of it is over.
    - ``"takes_nothing"``: the pod that is to get the uid is alive and takes no new uids: it drains, or is full.
    - ``"no_other_pod"``: the pod is not drained, as no other one of the service takes new uids.
    - ``"not_answering"``: the pod has not done in time what was asked of it. It may yet do it, until the time is up by
      the clock of Redis.

    Attributes:
        reason: which of these.
        namespace: the namespace of the service.
        service_name: the service.
        uid: the uid that has no link; ``None`` for the other reasons.
        pod_index: the pod; for ``"not_answering"`` the one that was asked last.
        asked: what a pod that has not answered was asked: ``move``, ``drain`` or ``undrain``; else ``None``.
        seconds: how long the answer was waited for; else ``None``.

    """

    def __init__(
        self,
        reason: Refusal,
        namespace: str,
        service_name: str,
        pod_index: int | None = None,
        why: str = "",
        *,
        uid: str | None = None,
        asked: str | None = None,
        seconds: float | None = None,
    ) -> None:
        """Name the uid or the pod, and say what is known of it and what to do."""
        if reason == "no_link":
            message = f"{_shown(uid)} has no link in service {service_name!r} of namespace {namespace!r}"
        else:
            what = _REFUSALS[reason].format(why=why, asked=asked, seconds=seconds)
            message = f"pod {pod_index} of {service_name!r} in namespace {namespace!r} {what}"
        super().__init__(message)
        self.reason = reason
        self.namespace = namespace
        self.service_name = service_name
        self.uid = uid
        self.pod_index = pod_index
        self.asked = asked
        self.seconds = seconds
