"""What the middleware and the gateway are told, checked."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from stateful_route._validation import check_count, check_id, check_seconds
from stateful_route.config import BaseConfig
from stateful_route.errors import ConfigError
from stateful_route.instrumentation import teller_of
from stateful_route.route import StatefulRoute, shown_source
from stateful_route.server.callbacks import check_adopt, check_forget, check_hand_off
from stateful_route.web.forward.misroute import checked_misroute
from stateful_route.web.forward.new_uids import NewUids
from stateful_route.web.peer.keys import PeerKeys
from stateful_route.web.reached import checked_http_address
from stateful_route.web.tally import WebTally
from stateful_route.web.uids.found import UidSources
from stateful_route.web.unserved import UnservedLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stateful_route.server.departure.hand_over import HandOff
    from stateful_route.server.parcels import Adopt
    from stateful_route.web.forward.misroute import Misroute, Misrouted
    from stateful_route.web.peer.keys import Secret
    from stateful_route.web.uids.request import RequestHead
    from stateful_route.web.uids.sources import UidSource

    Uids: TypeAlias = "UidSource | Sequence[UidSource]"
    Scope: TypeAlias = "UidSource | Callable[[RequestHead], str | None] | None"

DrainMode: TypeAlias = Literal["hand_off", "linger", "release"]
WhileAway: TypeAlias = Literal["serve", "refuse"]

_URL_VARIABLES = "STATEFUL_ROUTE_URL", "REDIS_URL"
_SECRET_VARIABLE = "STATEFUL_ROUTE_SECRET"  # noqa: S105 - the name of a variable
_HOST_VARIABLE = "STATEFUL_ROUTE_PEER_HOST"
_LISTEN_VARIABLE = "STATEFUL_ROUTE_PEER_LISTEN"
_LISTEN = "tcp"
_DRAINS = "hand_off", "linger", "release"
_AWAY = "serve", "refuse"


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(name, value, f"one of {', '.join(allowed)}")


@attrs.frozen(kw_only=True)
class EdgeSettings:
    """What an edge needs to know: where Redis is, which service, where its uids are, and for how long it waits."""

    service: str
    sources: UidSources
    redis: Any
    shown_redis: str
    config: BaseConfig
    keys: PeerKeys
    patience: float
    max_held: int
    tally: WebTally
    new_uids: NewUids
    unserved: UnservedLog = attrs.field(factory=UnservedLog)

    @classmethod
    def checked(
        cls,
        *,
        service: str,
        uid: Uids,
        redis: Any,
        namespace: str | None,
        config: BaseConfig | None,
        scope: Scope,
        secret: Secret | Sequence[Secret],
        patience: float | None,
        max_held: int,
        new_uids: float | None,
        new_uids_per_address: float | None,
        instrumentation: object,
    ) -> EdgeSettings:
        """Return the settings.

        Raises:
            ConfigError: if one is missing or wrong.
            InvalidArgumentError: naming the one of a wrong type or range.

        """
        check_id("service", service)
        config = BaseConfig.from_env() if config is None else config
        config = config if namespace is None else attrs.evolve(config, namespace=namespace)
        variable = None
        if redis is None:
            variable = next((name for name in _URL_VARIABLES if os.environ.get(name)), None)
            redis = None if variable is None else os.environ[variable]
        if redis is None:
            allowed = f"a URL or a client of redis-py; or set {' or '.join(_URL_VARIABLES)} in the environment"
            raise ConfigError("redis", None, allowed)
        StatefulRoute(redis, config)  # it refuses what is neither, and connects to nothing
        if patience is None:
            patience = config.lease_seconds + 1.0
        check_seconds("patience", patience)
        check_count("max_held", max_held)
        return cls(
            service=service,
            sources=UidSources(uid, scope),
            redis=redis,
            shown_redis=shown_source(redis) + (f" ({variable})" if variable else ""),
            config=config,
            keys=PeerKeys(os.environ.get(_SECRET_VARIABLE) if secret is None else secret),
            patience=patience,
            max_held=max_held,
            new_uids=NewUids(new_uids, new_uids_per_address, time.monotonic),
            tally=WebTally(service, teller_of(instrumentation)),
        )

    @property
    def scope(self) -> str:
        """What peers tell each other that they are of."""
        return f"{self.config.namespace}/{self.service}"


@attrs.frozen(kw_only=True)
class PodSettings:
    """What a process that serves uids needs to know on top: where it listens, and how it leaves."""

    listen: str
    host: str | None
    hand_off: HandOff | None
    adopt: Adopt | None
    forget: Callable[[str], None] | None
    max_state: int
    drain: DrainMode
    linger_idle: float
    stop_after: float
    while_away: WhileAway
    on_signal: bool
    http_address: str | None
    misroute: Misroute | None

    @classmethod
    def checked(
        cls,
        *,
        listen: str | None,
        host: str | None,
        hand_off: HandOff | None,
        adopt: Adopt | None,
        forget: Callable[[str], None] | None,
        max_state: int,
        drain: DrainMode | None,
        linger_idle: float,
        stop_after: float,
        while_away: WhileAway,
        on_signal: bool,
        http_address: str | None,
        misroute: Misrouted,
        public_address: str | None,
    ) -> PodSettings:
        """Return the settings.

        Raises:
            ConfigError: if they are wrong, or do not go together.
            InvalidArgumentError: naming the one of a wrong type or range.

        """
        if hand_off is not None:
            check_hand_off("hand_off", hand_off, adopts=adopt is not None)
        if forget is not None:
            check_forget("forget", forget)
        check_count("max_state", max_state)
        if adopt is not None:
            check_adopt("adopt", adopt)
            if hand_off is None:
                raise ConfigError("adopt", adopt, "only beside hand_off=, which returns what is adopted")
        if drain is None:
            drain = "linger" if hand_off is None else "hand_off"
        _choice("drain", drain, _DRAINS)
        _choice("while_away", while_away, _AWAY)
        if drain == "hand_off" and hand_off is None:
            raise ConfigError("drain", drain, "'linger' or 'release' without a hand_off")
        check_seconds("linger_idle", linger_idle)
        check_seconds("stop_after", stop_after)
        return cls(
            listen=listen or os.environ.get(_LISTEN_VARIABLE) or _LISTEN,
            host=host or os.environ.get(_HOST_VARIABLE),
            hand_off=hand_off,
            adopt=adopt,
            forget=forget,
            max_state=max_state,
            drain=drain,
            linger_idle=linger_idle,
            stop_after=stop_after,
            while_away=while_away,
            on_signal=on_signal,
            http_address=checked_http_address(http_address),
            misroute=checked_misroute(misroute, public_address),
        )
