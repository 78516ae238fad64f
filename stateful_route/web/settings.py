"""The settings of the middleware, the gateway and the decision: a field of these classes is an argument of theirs."""

from __future__ import annotations

import functools
import inspect
import os
import time
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeAlias, TypeVar, get_args

import attrs

from stateful_route._validation import check_count, check_id, check_seconds, checked
from stateful_route.config import BaseConfig
from stateful_route.errors import ConfigError
from stateful_route.instrumentation import teller_of
from stateful_route.route import StatefulRoute, shown_source
from stateful_route.server.callbacks import check_adopt, check_forget, check_hand_off
from stateful_route.server.parcels import MAX_STATE
from stateful_route.web.addresses import Addresses, checked_http_address
from stateful_route.web.forward.misroute import checked_misroute
from stateful_route.web.forward.new_uids import NewUids
from stateful_route.web.peer.keys import PeerKeys
from stateful_route.web.tally import WebTally
from stateful_route.web.uids.found import UidSources
from stateful_route.web.unserved import UnservedLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.client.placement.strategies import PlacementStrategy
    from stateful_route.load import LoadSource
    from stateful_route.server.departure.hand_over import HandOff
    from stateful_route.server.parcels import Adopt
    from stateful_route.web.asgi import App
    from stateful_route.web.forward.misroute import Misroute, Misrouted
    from stateful_route.web.peer.keys import Secret
    from stateful_route.web.uids.request import RequestHead
    from stateful_route.web.uids.sources import UidSource

    Uids: TypeAlias = "UidSource | Sequence[UidSource]"
    Scope: TypeAlias = "UidSource | Callable[[RequestHead], str | None] | None"

DrainMode: TypeAlias = Literal["hand_off", "linger", "release"]
WhileAway: TypeAlias = Literal["serve", "refuse"]
AskedBy: TypeAlias = Literal["nginx", "haproxy", "caddy", "traefik", "envoy"]
"""A proxy, and so how it tells what it was asked."""

P = ParamSpec("P")
T = TypeVar("T")

_URL_VARIABLES = "STATEFUL_ROUTE_URL", "REDIS_URL"
_SECRET_VARIABLE = "STATEFUL_ROUTE_SECRET"  # noqa: S105 - the name of a variable
_HOST_VARIABLE = "STATEFUL_ROUTE_PEER_HOST"
_LISTEN_VARIABLE = "STATEFUL_ROUTE_PEER_LISTEN"
_LISTEN = "tcp"


def takes(
    settings: Callable[P, object],
) -> Callable[[Callable[Concatenate[T, ...], None]], Callable[Concatenate[T, P], None]]:
    """Give a constructor the arguments of settings, for editors, type checkers and the reference."""

    def decorate(init: Any) -> Any:
        own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        init.__signature__ = inspect.Signature([own, *inspect.signature(settings).parameters.values()])
        return init

    return decorate


def _one_of(*allowed: str) -> Any:
    def check(name: str, value: object) -> None:
        if value not in allowed:
            raise ConfigError(name, value, f"one of {', '.join(allowed)}")

    return checked(check)


@attrs.frozen(kw_only=True, slots=False, eq=False)
class EdgeSettings:
    """What the middleware, the gateway and the decision take.

    An argument of which something else is kept, by the same name, is a field ``given_...``.

    Raises:
        ConfigError: if one is missing or wrong, or if they do not go together.
        InvalidArgumentError: naming the one of a wrong type or range.

    """

    service: str = attrs.field(validator=checked(check_id))
    """the name of the service: all its processes have the same."""
    uid: Uids = attrs.field()
    """where in a request its uid is: one source, or several in their order, of which the first that finds something
    counts. A gateway and a decision have the same ones, in the same order, as the middleware."""
    given_redis: Any = attrs.field(default=None, alias="redis", repr=False)
    """a URL or an asyncio client of redis-py; by default ``STATEFUL_ROUTE_URL`` or ``REDIS_URL`` of the environment."""
    namespace: str | None = None
    """isolation domain; by default that of the config."""
    given_config: BaseConfig | None = attrs.field(default=None, alias="config")
    """every tuning value; by default ``BaseConfig.from_env()``. Without a ``pod_index`` in a config that is given, a
    process with the middleware leases one; with that of the environment it always does, as workers share a host name,
    unless ``STATEFUL_ROUTE_INDEX_IS_EXCLUSIVE`` says that the index of a StatefulSet is its own."""
    given_scope: Scope = attrs.field(default=None, alias="scope")
    """whose uid it is: a source, or a function of the request. One user's id never reaches another's state."""
    given_secret: Secret | Sequence[Secret] = attrs.field(default=None, alias="secret", repr=False)
    """what the processes of the service prove to each other that they know; several, the first of which is used, while
    one follows the other. By default ``STATEFUL_ROUTE_SECRET`` of the environment."""
    given_patience: float | None = attrs.field(default=None, alias="patience")
    """for how many seconds a request is held while its owner is not there; by default lease + 1."""
    max_held: int = attrs.field(default=1000, validator=checked(check_count))
    """how many requests are held at the same time; the others get a 503 at once."""
    given_new_uids: float | None = attrs.field(default=1000.0, alias="new_uids")
    """how many uids without a link this process places a second, and ten seconds' worth at once; the others get a 429.
    Uids of a process that died count, and are never refused. ``None``: no bound."""
    instrumentation: object = None
    """is told what happens, here and in the drivers: an object with any of the methods of ``Instrumentation``."""

    def __attrs_post_init__(self) -> None:
        """Find what follows from the settings, which refuses those that are wrong."""
        for name in ("config", "redis", "sources", "keys", "patience", "new_uids", "tally"):
            getattr(self, name)

    @functools.cached_property
    def config(self) -> BaseConfig:
        """Every tuning value."""
        config = BaseConfig.from_env() if self.given_config is None else self.given_config
        return config if self.namespace is None else attrs.evolve(config, namespace=self.namespace)

    @functools.cached_property
    def redis(self) -> Any:
        """A URL or a client of redis-py."""
        redis = os.environ[variable] if (variable := self._variable) else self.given_redis
        if redis is None:
            allowed = f"a URL or a client of redis-py; or set {' or '.join(_URL_VARIABLES)} in the environment"
            raise ConfigError("redis", None, allowed)
        StatefulRoute(redis, self.config)  # it refuses what is neither, and connects to nothing
        return redis

    @functools.cached_property
    def _variable(self) -> str | None:
        return next((name for name in _URL_VARIABLES if self.given_redis is None and os.environ.get(name)), None)

    @property
    def shown_redis(self) -> str:
        """Where Redis is, for people, and which variable says so."""
        return shown_source(self.redis) + (f" ({self._variable})" if self._variable else "")

    @functools.cached_property
    def sources(self) -> UidSources:
        """Where the uid is, and whose it is."""
        return UidSources(self.uid, self.given_scope)

    @functools.cached_property
    def keys(self) -> PeerKeys:
        """What the processes of the service prove to each other that they know."""
        return PeerKeys(os.environ.get(_SECRET_VARIABLE) if self.given_secret is None else self.given_secret)

    @functools.cached_property
    def patience(self) -> float:
        """For how many seconds a request is held."""
        patience = self.config.lease_seconds + 1.0 if self.given_patience is None else self.given_patience
        check_seconds("patience", patience)
        return patience

    @functools.cached_property
    def new_uids(self) -> NewUids:
        """Tells when too many uids were placed."""
        return NewUids(self.given_new_uids, None, time.monotonic)

    @functools.cached_property
    def tally(self) -> WebTally:
        """Counts what is done with requests."""
        return WebTally(self.service, teller_of(self.instrumentation))

    @functools.cached_property
    def unserved(self) -> UnservedLog:
        """Says why requests were not served."""
        return UnservedLog()

    @property
    def scope(self) -> str:
        """What peers tell each other that they are of."""
        return f"{self.config.namespace}/{self.service}"


@attrs.frozen(kw_only=True, slots=False, eq=False)
class FrontSettings(EdgeSettings):
    """What the middleware and the gateway take: they carry requests."""

    new_uids_per_address: float | None = None
    """the same as ``new_uids`` for each address of a client, as the web server tells it: give it only if that is not
    the address of a proxy, or of many users behind one. By default no bound."""
    stop_after: float = attrs.field(default=1.0, validator=checked(check_seconds))
    """for how many seconds after the drain the process goes on to serve, before the web server stops: clients and
    balancers leave their connections meanwhile, as they are told by ``Connection: close``. At its end a gateway ends
    the WebSockets and event streams that it carries, one after the other."""
    on_signal: bool = True
    """whether SIGTERM does so before the web server stops to serve."""
    metrics: str | None = None
    """a path, such as ``/metrics``, at which this process answers with its own metrics for Prometheus, whatever uid a
    request has. It needs the extra ``metrics``. Keep it from the outside at the balancer."""

    @functools.cached_property
    def new_uids(self) -> NewUids:
        """Tells when too many uids were placed."""
        return NewUids(self.given_new_uids, self.new_uids_per_address, time.monotonic)


@attrs.frozen(kw_only=True, slots=False, eq=False)
class AskingSettings(EdgeSettings):
    """What the gateway and the decision take: they serve no uids themselves."""

    restores: bool = False
    """whether the app has a ``hand_off``: it can load what another of its processes knew, so a uid that it has made is
    taken over too."""
    strategy: PlacementStrategy | None = None
    """chooses the pod of a new uid."""


@attrs.frozen(kw_only=True, slots=False, eq=False)
class GatewaySettings(AskingSettings, FrontSettings):
    """What the gateway takes."""

    address: str | None = None
    """where the pods serve HTTP, if they do not run ``StickyMiddleware``: a template with any of ``{host}``,
    ``{pod_index}`` and ``{pod_name}``, such as ``room-{pod_index}.room:8000``. By default what a pod publishes: an
    address for peers, or ``http://host:port``, as one by hand does. It needs the extra ``gateway``."""

    def __attrs_post_init__(self) -> None:
        """Find what follows from the settings, which refuses those that are wrong."""
        super().__attrs_post_init__()
        if self.address is not None:
            Addresses("address", self.address)


@attrs.frozen(kw_only=True, slots=False, eq=False)
class DecideSettings(AskingSettings):
    """What the decision takes."""

    asked_by: AskedBy = attrs.field(default="nginx", validator=_one_of(*get_args(AskedBy)))
    """the proxy. nginx and HAProxy say method and URI in ``X-Original-Method`` and ``X-Original-URI``, Caddy and
    Traefik in ``X-Forwarded-Method`` and ``X-Forwarded-Uri``; Envoy repeats them. What the others would say is not
    read: a client could have said it."""
    given_address: str | None = attrs.field(default=None, alias="address")
    """a template of the address at which a proxy reaches a pod, with any of ``{host}``, ``{pod_index}`` and
    ``{pod_name}``, for example ``{host}:8000``; by default what the pod publishes as ``http_address``."""

    def __attrs_post_init__(self) -> None:
        """Find what follows from the settings, which refuses those that are wrong."""
        super().__attrs_post_init__()
        _ = self.addresses

    @functools.cached_property
    def addresses(self) -> Addresses:
        """Says where a proxy reaches a pod."""
        return Addresses("address", self.given_address)


@attrs.frozen(kw_only=True, slots=False, eq=False)
class PodSettings(FrontSettings):
    """What a process that serves uids needs to know on top: where it listens, and how it leaves."""

    given_listen: str | None = attrs.field(default=None, alias="listen")
    """where peers reach this process: ``tcp``, a free port on the address that it has on its way to Redis;
    ``tcp://host:port``; ``unix`` or ``unix:///folder`` if all processes share a host. By default
    ``STATEFUL_ROUTE_PEER_LISTEN`` of the environment, or ``tcp``."""
    given_host: str | None = attrs.field(default=None, alias="host")
    """the address to publish instead; by default ``STATEFUL_ROUTE_PEER_HOST`` of the environment."""
    given_http_address: str | None = attrs.field(default=None, alias="http_address")
    """where a proxy reaches this process that asks ``StickyDecide`` where a request goes: ``host:port``; ``:port`` on
    the address at which its peers reach it; or ``peer``, the very port of its peers, for processes that share one port,
    as with ``uvicorn --workers``; that needs uvicorn. By default ``STATEFUL_ROUTE_HTTP_ADDRESS`` of the environment, or
    nowhere."""
    given_misroute: Misrouted = attrs.field(default="forward", alias="misroute")
    """what becomes of a request whose uid another process has. ``forward``: this one carries it there. ``accel``: nginx
    repeats it there (``X-Accel-Redirect: @owner``). ``fly-replay``: the proxy of Fly does, by the machine.
    ``redirect``: the client does, after a 307 to the ``public_address``. ``refuse``: it gets a 421. Or a function of a
    ``There`` and the scope, which returns status and headers, or ``None`` to forward. Forwarded are in any case one
    that was misdirected before (``X-Sticky-Replayed``), one that is given its id just now, and one whose owner
    publishes no address for it."""
    public_address: str | None = None
    """where clients reach a pod, for ``redirect``: a template with any of ``{host}``, ``{pod_index}`` and
    ``{pod_name}``, for example ``https://room-{pod_index}.example.com``."""
    hand_off: HandOff | None = None
    """called with each uid, and awaited, before it leaves this process: save its state, say. With ``adopt``, bytes that
    it returns travel to the process that gets the uid, and need not be saved."""
    adopt: Adopt | None = None
    """called with a uid, the bytes that ``hand_off`` has returned in another process, and the epoch at which this one
    will own the uid: before it serves it."""
    forget: Callable[[str], None] | None = attrs.field(default=None, validator=checked(check_forget, optional=True))
    """called with each uid that is no longer this process's, whatever the reason: it was idle, has ended, has moved,
    was taken over, or the process stops. A plain function, which drops what the app keeps of it."""
    max_state: int = attrs.field(default=MAX_STATE, validator=checked(check_count))
    """how many bytes a state may have to travel; a uid with more is released, and its state is lost."""
    given_drain: DrainMode | None = attrs.field(default=None, alias="drain")
    """how uids leave at SIGTERM: ``hand_off``; ``linger``, once they were idle for ``linger_idle`` seconds;
    ``release``, at once. In each case within ``drain_deadline`` of the config. By default ``hand_off`` if there is one,
    and ``linger`` if not."""
    linger_idle: float = attrs.field(default=5.0, validator=checked(check_seconds))
    """seconds from 0, since the last request of the uid ended: also of those before the signal."""
    while_away: WhileAway = attrs.field(default="refuse", validator=_one_of(*get_args(WhileAway)))
    """whether owned uids are served while Redis does not answer for longer than the lease: ``refuse``, or ``serve``, at
    the risk of two owners if only this process is cut off."""
    load_source: LoadSource | None = None
    """says how loaded the process is; by default by its links."""

    def __attrs_post_init__(self) -> None:
        """Find what follows from the settings, which refuses those that are wrong."""
        super().__attrs_post_init__()
        if self.hand_off is not None:
            check_hand_off("hand_off", self.hand_off, adopts=self.adopt is not None)
        if self.adopt is not None:
            check_adopt("adopt", self.adopt)
            if self.hand_off is None:
                raise ConfigError("adopt", self.adopt, "only beside hand_off=, which returns what is adopted")
        for name in ("drain", "http_address", "misroute"):
            getattr(self, name)

    @functools.cached_property
    def listen(self) -> str:
        """Where peers reach this process."""
        return self.given_listen or os.environ.get(_LISTEN_VARIABLE) or _LISTEN

    @functools.cached_property
    def host(self) -> str | None:
        """The address to publish."""
        return self.given_host or os.environ.get(_HOST_VARIABLE)

    @functools.cached_property
    def http_address(self) -> str | None:
        """Where a proxy reaches this process."""
        return checked_http_address(self.given_http_address)

    @functools.cached_property
    def misroute(self) -> Misroute | None:
        """Answers misdirected requests; ``None``: they are forwarded."""
        return checked_misroute(self.given_misroute, self.public_address)

    @functools.cached_property
    def drain(self) -> DrainMode:
        """How uids leave."""
        if self.given_drain is None:
            return "linger" if self.hand_off is None else "hand_off"
        if self.given_drain not in get_args(DrainMode):
            raise ConfigError("drain", self.given_drain, f"one of {', '.join(get_args(DrainMode))}")
        if self.given_drain == "hand_off" and self.hand_off is None:
            raise ConfigError("drain", self.given_drain, "'linger' or 'release' without a hand_off")
        return self.given_drain


@attrs.frozen(slots=False, eq=False)
class MiddlewareSettings(PodSettings):
    """What the middleware takes."""

    app: App
    """the ASGI app."""
