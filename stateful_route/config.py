"""Every setting, with its unit and default."""

from __future__ import annotations

import difflib
import logging
import os
import re
from typing import TYPE_CHECKING, Any, Self

import attrs

from stateful_route import _json
from stateful_route._checks import (
    MAX_POD_INDEX,
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
from stateful_route.models import ServerInfo

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log = logging.getLogger("stateful_route")

# A longer number is no ordinal: a CI host may have one, and five characters end the name of a Deployment's pod.
_ORDINAL = re.compile(r"-(\d{1,4})$")
_SLIP = 0.8
_MAX_CHOICES = 1024
_FLAGS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_MAX_CONNECTIONS = 10_000
_MAX_PENDING = 1_000_000


def _setting(default: Any, check: Callable[..., None], *args: object, unit: str, doc: str, kind: type) -> Any:
    return attrs.field(
        default=default,
        converter=as_float if kind is float else None,
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

    The settings, their units and defaults are the table in the README; ``help(BaseConfig)`` lists the names.

    Raises:
        InvalidArgumentError: naming the setting of a wrong type or range.
        ConfigError: if settings do not go together.

    """

    namespace: str = _identity("isolation domain; the one meant by an empty string in a driver's call", "default")
    service_name: str | None = _identity("service of this pod (pods only)")
    pod_name: str | None = _identity("name of this pod, for people (pods only)")
    pod_index: int | None = _setting(
        None, check_pod_index, unit="", doc="ordinal of this pod, from 0 (pods only)", kind=int
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
        None, check_count, unit="links", doc="with so many links this pod is full and gets no new uids", kind=int
    )

    call_deadline: float = _seconds(1.0, "longest time of one call to Redis, connecting included")
    max_pending: int = _setting(
        10_000,
        check_int,
        1,
        MAX_POD_INDEX,
        unit="",
        doc="commands under way to one Redis server; further calls wait",
        kind=int,
    )
    max_connections: int = _setting(
        64,
        check_int,
        1,
        _MAX_CONNECTIONS,
        unit="",
        doc="connections of a borrowed client to one Redis server; further calls wait",
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
    lease: float | None = _seconds(None, "a pod without a heartbeat for so long is dead; unset: 5 heartbeats")
    heartbeat_jitter: float = _setting(
        0.1, check_fraction, unit="", doc="share of a period by which a periodic task varies", kind=float
    )
    pod_retention: float = _seconds(86400.0, "how long Redis remembers a pod that is gone")
    index_is_exclusive: bool = _setting(
        False,  # noqa: FBT003 - the default of a flag
        check_bool,
        unit="",
        doc="no two processes have one pod index, as a StatefulSet guarantees: a restarted pod owns at once",
        kind=bool,
    )
    drain_deadline: float = _seconds(
        20.0, "longest time of a drain: announcing it, and handing the uids over", check_seconds
    )
    drain_rate: float = _setting(
        2000.0, check_rate, unit="uids/s", doc="most uids that a pod hands over in a second", kind=float
    )
    rebalance: bool = _setting(
        False,  # noqa: FBT003 - the default of a flag
        check_bool,
        unit="",
        doc="a pod with more than its share lets links go that `movable` names",
        kind=bool,
    )
    rebalance_period: float = _seconds(10.0, "time between two looks of a pod at its share")
    rebalance_tolerance: float = _setting(
        0.1,
        check_fraction,
        unit="",
        doc="load above the mean, as a share of it, at which that ends; it begins at twice as much",
        kind=float,
    )
    rebalance_share: float = _setting(
        0.05, check_fraction, unit="", doc="share of its links that a pod lets go at most in one period", kind=float
    )
    stop_deadline: float = _seconds(
        5.0, "longest time that stop() takes after the drain, for what was claimed since and the goodbye"
    )

    link_ttl: float = _seconds(600.0, "life of a temporary link that nobody asks for")
    cache_ttl: float = _seconds(240.0, "longest time that a client trusts a cached link")
    cache_margin: float = _seconds(1.0, "a cached link ends so long before the link itself", check_seconds)
    cache_size: int = _setting(
        100_000, check_int, 1, MAX_POD_INDEX, unit="links", doc="most links that a client caches", kind=int
    )
    listen_patience: float = _seconds(
        1.0, "silence after which a client asks Redis for a sign of life; deaf after twice it"
    )
    degraded_grace: float = _seconds(60.0, "cached links are used so long while Redis does not answer", check_seconds)
    refresh: float = _seconds(1.0, "time between two readings of the pods of a service in use")
    choices: int = _setting(
        3, check_int, 1, _MAX_CHOICES, unit="", doc="pods compared for a new uid; the best of them gets it", kind=int
    )
    settle: float = _seconds(1.0, "time until a new link shows in the load that its pod publishes", check_seconds)

    def __attrs_post_init__(self) -> None:
        """Refuse settings that do not go together."""
        if self.lease is not None and self.lease < 2 * self.heartbeat:
            raise ConfigError("lease", self.lease, f"at least two heartbeats, {2 * self.heartbeat:g} s")

    @property
    def lease_seconds(self) -> float:
        """The lease: as set, or 5 heartbeats."""
        return 5 * self.heartbeat if self.lease is None else self.lease

    def server_info(self) -> ServerInfo:
        """Return the identity of this pod.

        Raises:
            ConfigError: if a part of it is not set.

        """
        parts = {name: getattr(self, name) for name in ("namespace", "service_name", "pod_name", "pod_index")}
        for name, value in parts.items():
            if value is None:
                raise ConfigError(
                    name, None, f"a value, as STATEFUL_ROUTE_{name.upper()} may give it: {self._why(name)}"
                )
        return ServerInfo(**parts)

    def _why(self, name: str) -> str:
        if name == "pod_index" and self.pod_name is not None:
            return f"{self.pod_name!r} does not end in an ordinal, as the name of a pod of a StatefulSet does"
        return "a server driver needs to know which pod it is in"

    @classmethod
    def from_env(cls, prefix: str = "STATEFUL_ROUTE_", environ: Mapping[str, str] | None = None) -> Self:
        """Read the settings from environment variables, for example ``STATEFUL_ROUTE_HEARTBEAT=0.5``.

        A variable that is not set, or empty, leaves the default; one with a name that is nearly that of a setting is
        warned of in the log. On Kubernetes the host name of a pod of a StatefulSet is its name and ends with its
        ordinal: without ``..._POD_NAME`` the variable ``HOSTNAME`` is the pod's name, and without ``..._POD_INDEX``
        the ordinal at the end of the pod's name, of up to four digits, is its index.

        Raises:
            ConfigError: naming the variable that is wrong.

        """
        environ = os.environ if environ is None else environ
        settings: dict[str, Any] = {}
        _warn_of_slips(prefix, environ)
        for field in attrs.fields(cls):
            variable = prefix + field.name.upper()
            if text := environ.get(variable, ""):
                settings[field.name] = _read_variable(variable, text, field.metadata["kind"])
        if "pod_name" not in settings and (name := environ.get("HOSTNAME", "")):
            settings["pod_name"] = name
        if "pod_index" not in settings and (ordinal := _ORDINAL.search(settings.get("pod_name", ""))):
            settings["pod_index"] = int(ordinal[1])
        try:
            return cls(**settings)
        except InvalidArgumentError as error:
            raise ConfigError(prefix + error.argument.upper(), error.value, error.allowed) from error
        except ConfigError as error:
            raise ConfigError(prefix + error.setting.upper(), error.value, error.allowed) from error


def _warn_of_slips(prefix: str, environ: Mapping[str, str]) -> None:
    """Say which variables are hardly meant for anybody else. Kubernetes makes some of its own with such a prefix."""
    known = [field.name.upper() for field in attrs.fields(BaseConfig)]
    for name in sorted(variable.removeprefix(prefix) for variable in environ if variable.startswith(prefix)):
        if name not in known and (meant := difflib.get_close_matches(name, known, n=1, cutoff=_SLIP)):
            _log.warning("%s%s is no setting: is %s%s meant?", prefix, name, prefix, meant[0])


def _read_variable(variable: str, text: str, kind: type) -> object:
    if kind is bool:
        if text.lower() not in _FLAGS:
            raise ConfigError(variable, text, f"one of {', '.join(_FLAGS)}")
        return _FLAGS[text.lower()]
    try:
        return kind(text)
    except ValueError:
        raise ConfigError(variable, text, "an int" if kind is int else "a number") from None
