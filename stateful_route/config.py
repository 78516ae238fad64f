"""Every setting, with its unit and default."""

from __future__ import annotations

import difflib
import os
import re
import socket
from typing import TYPE_CHECKING, Any, Self

import attrs

from stateful_route import _json
from stateful_route._log import log
from stateful_route._validation import (
    RESOLUTION,
    as_float,
    check_bool,
    check_capacity,
    check_count,
    check_duration,
    check_fraction,
    check_id,
    check_int,
    check_pod_index,
    check_rate,
    check_seconds,
    checked,
)
from stateful_route.errors import ConfigError, InvalidArgumentError
from stateful_route.history import MOST_KEPT
from stateful_route.pods import ServerInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# A longer number is no ordinal: a CI host may have one, and five characters end the name of a Deployment's pod.
_ORDINAL = re.compile(r"-(\d{1,4})$")
_SLIP = 0.8
_PREFIX = "STATEFUL_ROUTE_"
# With which prefixes this process has read the environment, or has warned that it did not.
_READ: set[str] = set()
# What the variable of the pod index says if the pod leases its index whatever its name is.
_LEASED = "leased"
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
# Seconds of work for a server: what waits longer is late anyway. Each costs some 500 bytes here.
_MAX_PENDING = 1_000_000
# At 144 bytes a link that is 14 GB: more is a slip, or belongs to several processes.
_MAX_CACHED = 100_000_000
# What Redis remembers of a pod that is gone, in seconds.
_RETENTION = 86400.0
# What became of the settings that there are no more.
_GONE = {
    "cache_margin": "a cached entry expires 1 s before its link, and for a short link_ttl a quarter of that",
    "choices": "give the driver a strategy: route.client(strategy=PreferEmptier(BestOfRandom(choices)))",
    "history_ttl": "a history is kept for a day after the latest change of its link",
    "jitter": "a periodic task varies by a tenth of its period",
    "max_connections": "a client of redis-py is served over connections of our own: max_pending bounds its calls",
    "pod_retention": "Redis remembers a pod that is gone for a day, or for two leases if they are longer",
    "rebalance_share": "a pod lets a twentieth of its links go in each rebalance_period",
    "rebalance_tolerance": "rebalancing stops within a tenth of the mean load, and starts above a fifth",
    "settle": "a new link counts for a second beside a published load; a source that lags by more smooths it",
}
# Longer than this nobody waits gladly for a cache miss, however long the lease is.
_LONGEST_DEFAULT_CALL = 1.0


class _Derived(float):
    """A setting that was not set and follows from others: ``attrs.evolve`` derives it anew."""

    __slots__ = ()


def _as_set(value: Any) -> Any:
    return None if isinstance(value, _Derived) else as_float(value)


def _setting(default: Any, check: Callable[..., None], *args: object, unit: str, doc: str, kind: type) -> Any:
    return attrs.field(
        default=default,
        converter=_as_set if kind is float else None,
        validator=checked(check, *args, optional=default is None),
        metadata={"unit": unit, "doc": doc, "kind": kind},
    )


def _seconds(default: float | None, doc: str, check: Callable[..., None] = check_duration) -> Any:
    return _setting(default, check, unit="s", doc=doc, kind=float)


def _identity(doc: str, default: str | None = None) -> Any:
    return _setting(default, check_id, unit="", doc=doc, kind=str)


@attrs.frozen(kw_only=True)
class BaseConfig(_json.JsonForm):
    """Who a process is, and every tuning value. Immutable; ``attrs.evolve`` makes a changed copy.

    docs/settings.md has the settings, their units and defaults; ``help(BaseConfig)`` lists the names.

    Raises:
        InvalidArgumentError: naming the setting of a wrong type or range.
        ConfigError: if settings do not go together, or one is there no more.

    """

    namespace: str = _identity("isolation domain; the one meant by an empty string in a driver's call", "default")
    service_name: str | None = _identity("service of this pod (pods only)")
    pod_name: str | None = _identity("name of this pod, for people (pods only)")
    pod_index: int | None = _setting(
        None,
        check_pod_index,
        unit="",
        doc="ordinal of this pod, from 0; unset: it leases the lowest one that is free (pods only)",
        kind=int,
    )
    address: str | None = _identity("where this pod is reached, published to the clients")
    zone: str | None = _identity("where this pod runs, published to the clients")
    version: str | None = _identity("revision of the application in this pod, published to the clients")
    capacity: float = _setting(
        1.0,
        check_capacity,
        unit="",
        doc="size of this pod in relation to the others: 2 takes twice the load",
        kind=float,
    )
    max_links: int | None = _setting(
        None, check_count, unit="links", doc="number of links at which this pod is full and gets no new uids", kind=int
    )
    max_links_is_hard: bool = _setting(
        False,  # noqa: FBT003 - the default of a flag
        check_bool,
        unit="",
        doc="whether this pod refuses to claim one more uid than `max_links`",
        kind=bool,
    )

    call_deadline: float | None = _seconds(
        None,
        "longest time of one call to Redis, connecting included; unset: a quarter of the lease, at most 1 s; "
        "in a pod at most half of the lease",
    )
    max_pending: int = _setting(
        10_000,
        check_int,
        1,
        _MAX_PENDING,
        unit="",
        doc="commands in flight to one Redis server; further calls wait",
        kind=int,
    )

    cpu_factor: float = _setting(
        0.0,
        check_fraction,
        unit="",
        doc="share of CPU in the load that a pod publishes, from 0 to 1; above 0 needs the extra `cpu`",
        kind=float,
    )
    heartbeat: float = _seconds(1.0, "time between two heartbeats of a pod")
    lease: float | None = _seconds(None, "time without a heartbeat after which a pod is dead; unset: 5 heartbeats")
    index_is_exclusive: bool = _setting(
        False,  # noqa: FBT003 - the default of a flag
        check_bool,
        unit="",
        doc="whether no two processes have one pod index, as a StatefulSet guarantees: a restarted pod owns at once",
        kind=bool,
    )
    drain_deadline: float = _seconds(
        20.0, "longest time of a drain, from its announcement until all uids are handed over", check_seconds
    )
    drain_rate: float = _setting(
        2000.0,
        check_rate,
        unit="uids/s",
        doc="most uids that a pod hands over, or releases as they are idle, per second",
        kind=float,
    )
    rebalance: bool = _setting(
        False,  # noqa: FBT003 - the default of a flag
        check_bool,
        unit="",
        doc="whether a pod with more than its share of the load lets links go that `movable` names",
        kind=bool,
    )
    rebalance_period: float = _seconds(10.0, "time between two comparisons of a pod's load with the mean")
    stop_deadline: float = _seconds(
        5.0, "longest time of stop() after the drain, to hand over what was claimed meanwhile and to say goodbye"
    )

    life_dir: str | None = _setting(
        None,
        check_id,
        unit="",
        doc="folder, on Linux, in which each pod has a file with the name of its life, for `stateful-route sidecar`",
        kind=str,
    )

    link_ttl: float = _seconds(600.0, "life of a temporary link that is neither renewed nor confirmed")
    cache_ttl: float = _seconds(240.0, "longest time that a client trusts a cached link")
    cache_size: int = _setting(
        100_000, check_int, 1, _MAX_CACHED, unit="links", doc="most links that a client caches", kind=int
    )
    listen_patience: float = _seconds(
        1.0,
        "silence on a subscription after which Redis is pinged; after twice as long the subscription counts as lost",
    )
    degraded_grace: float = _seconds(
        60.0, "time for which cached links are used while Redis does not answer", check_seconds
    )
    refresh: float = _seconds(1.0, "time between two readings of the pods of each service in use")

    durable: bool = _setting(
        False,  # noqa: FBT003 - the default of a flag
        check_bool,
        unit="",
        doc="whether a change of a link is answered only once a replica of Redis has it: a failover keeps it then",
        kind=bool,
    )
    history: int = _setting(
        0,
        check_int,
        0,
        MOST_KEPT,
        unit="changes",
        doc="most changes of a link that are kept beside it, to be read by `history`; 0: none, which costs nothing",
        kind=int,
    )

    def __new__(cls, **settings: object) -> Self:
        """Say what became of a setting that there is no more."""
        for name in settings.keys() & _GONE:
            raise _gone(name, settings[name])
        return super().__new__(cls)

    def __attrs_post_init__(self) -> None:
        """Refuse settings that do not go together, and derive what is not set."""
        if self.lease is not None and self.lease < 2 * self.heartbeat:
            raise ConfigError("lease", self.lease, f"at least two heartbeats, {2 * self.heartbeat:g} s")
        if self.call_deadline is None:
            # So that there is time for another heartbeat after one over a connection that went silent.
            derived = _Derived(max(RESOLUTION, min(_LONGEST_DEFAULT_CALL, self.lease_seconds / 4)))
            object.__setattr__(self, "call_deadline", derived)

    @property
    def lease_seconds(self) -> float:
        """The lease in force: as set, or 5 heartbeats."""
        return 5 * self.heartbeat if self.lease is None else self.lease

    @property
    def call_deadline_seconds(self) -> float:
        """The deadline of a call in force: as set, or the lesser of 1 s and a quarter of the lease."""
        return _LONGEST_DEFAULT_CALL if self.call_deadline is None else self.call_deadline

    @property
    def retention_seconds(self) -> float:
        """The time for which Redis remembers a pod: a day, and at least two leases.

        Forgotten within its lease, a pod that may still own is unknown to the next one with its index, which owns too.
        """
        return max(_RETENTION, 2 * self.lease_seconds)

    def check_for_pod(self) -> None:
        """Refuse what would cost a pod its life, or makes no sense in one.

        Raises:
            ConfigError: if ``call_deadline`` is above half of the lease: a heartbeat over a connection that went silent
                would use up what the lease leaves for the next one; or if ``max_links_is_hard`` without ``max_links``.

        """
        if self.max_links_is_hard and self.max_links is None:
            raise ConfigError("max_links_is_hard", value=True, allowed="False without max_links")
        most = self.lease_seconds / 2
        if self.call_deadline_seconds > most:
            allowed = f"at most half of the lease, {most:g} s, in a pod; unset, it is a quarter of it"
            raise ConfigError("call_deadline", self.call_deadline, allowed)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form as a dict; what was not set is not set in it either."""
        derived = {"callDeadline": None} if isinstance(self.call_deadline, _Derived) else {}
        return super().to_dict() | derived

    def server_info(self) -> ServerInfo:
        """Return the identity of this pod: without an index, it leases one.

        Without a name it has that of its host, and the number of its process.

        Raises:
            ConfigError: if the service is not set.

        """
        if self.service_name is None:
            variable = f"{_PREFIX}SERVICE_NAME"
            allowed = f"a value, as {variable} may give it: a server driver needs to know its service"
            if os.environ.get(variable):
                allowed = f"a value: {variable} is set, and only BaseConfig.from_env() reads it"
            raise ConfigError("service_name", None, allowed)
        name = self.pod_name or f"{socket.gethostname() or 'pod'}-{os.getpid()}"
        return ServerInfo(
            namespace=self.namespace, service_name=self.service_name, pod_name=name, pod_index=self.pod_index
        )

    @classmethod
    def from_env(cls, prefix: str = _PREFIX, environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings from environment variables, for example ``STATEFUL_ROUTE_HEARTBEAT=0.5``.

        A variable that is not set, or empty, leaves the default; one with a name that is nearly that of a setting is
        warned of in the log. On Kubernetes the host name of a pod of a StatefulSet is its name and ends with its
        ordinal: without ``..._POD_NAME`` the variable ``HOSTNAME`` is the pod's name, and without ``..._POD_INDEX``
        the ordinal at the end of the pod's name, of up to four digits, is its index. With ``..._POD_INDEX=leased`` the
        pod leases an index all the same: the workers of one host have one host name.

        Raises:
            ConfigError: naming the variable that is wrong, or of a setting that there is no more.

        """
        environ = os.environ if environ is None else environ
        _READ.add(prefix)
        settings: dict[str, Any] = {}
        for name in _GONE:
            if text := environ.get(variable := prefix + name.upper()):
                raise _gone(name, text, variable)
        _warn_of_slips(prefix, environ)
        leased = environ.get(f"{prefix}POD_INDEX", "").lower() == _LEASED
        for field in attrs.fields(cls):
            variable = prefix + field.name.upper()
            if (text := environ.get(variable, "")) and not (leased and field.name == "pod_index"):
                settings[field.name] = _read_variable(variable, text, field.metadata["kind"])
        if "pod_name" not in settings and (name := environ.get("HOSTNAME", "")):
            settings["pod_name"] = name
        if not leased and "pod_index" not in settings and (ordinal := _ORDINAL.search(settings.get("pod_name", ""))):
            settings["pod_index"] = int(ordinal[1])
        try:
            return cls(**settings)
        except InvalidArgumentError as error:
            raise ConfigError(prefix + error.argument.upper(), error.value, error.allowed) from error
        except ConfigError as error:
            raise ConfigError(prefix + error.setting.upper(), error.value, error.allowed) from error


def warn_of_unread_variables() -> None:
    """Say, once in a process, which settings the environment has, if nobody has read them from there."""
    if _PREFIX in _READ:
        return
    _READ.add(_PREFIX)
    names = (_PREFIX + field.name.upper() for field in attrs.fields(BaseConfig))
    if unread := [name for name in names if os.environ.get(name)]:
        text = "%(variables)s: set in the environment, and not read; BaseConfig.from_env() reads the settings there"
        log.warning("settings_not_read", text, variables=", ".join(unread))


def _gone(name: str, value: object, variable: str = "") -> ConfigError:
    return ConfigError(variable or name, value, f"nothing, as this is no setting any more: {_GONE[name]}")


def _warn_of_slips(prefix: str, environ: Mapping[str, str]) -> None:
    """Say which variables are hardly meant for anybody else. Kubernetes makes some of its own with such a prefix."""
    known = [field.name.upper() for field in attrs.fields(BaseConfig)]
    for name in sorted(variable.removeprefix(prefix) for variable in environ if variable.startswith(prefix)):
        if name not in known and (meant := difflib.get_close_matches(name, known, n=1, cutoff=_SLIP)):
            text = "%(variable)s is no setting: is %(meant)s meant?"
            log.warning("setting_unknown", text, variable=prefix + name, meant=prefix + meant[0])


def _read_variable(variable: str, text: str, kind: type) -> object:
    if kind is bool:
        if text.lower() not in _FLAGS:
            raise ConfigError(variable, text, f"one of {', '.join(_FLAGS)}")
        return _FLAGS[text.lower()]
    try:
        return kind(text)
    except ValueError:
        allowed = "an int" if kind is int else "a number"
        if variable.endswith("POD_INDEX"):
            allowed += f", or {_LEASED!r}"
        raise ConfigError(variable, text, allowed) from None
