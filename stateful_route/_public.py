"""The names of the root, which imports this module when it is first asked for one of them."""

from stateful_route._version import __version__
from stateful_route.client.driver import ClientDriver
from stateful_route.client.service_view import ServiceView
from stateful_route.config import BaseConfig
from stateful_route.errors import (
    BatchError,
    ConfigError,
    InvalidArgumentError,
    LifecycleError,
    NoCapacityError,
    NoRoutablePodError,
    NotOwnerError,
    NotReplicatedError,
    OrderRefusedError,
    RoutingError,
    StatefulRouteError,
    StateRefusedError,
    StoreError,
    StoreProtocolError,
    StoreTimeoutError,
    StoreUnavailableError,
)
from stateful_route.history import LinkEvent
from stateful_route.instrumentation import Instrumentation
from stateful_route.interfaces import StatefulRouteForClientDriver, StatefulRouteForServerDriver
from stateful_route.links import Link, LinkKind
from stateful_route.lives import Life
from stateful_route.pods import DrainCounts, PodState, RoutingState, ServerInfo
from stateful_route.route import StatefulRoute
from stateful_route.server.departure.hand_over import HandOff
from stateful_route.server.departure.rebalance import Movable
from stateful_route.server.driver import ServerDriver
from stateful_route.server.owning.ownership import Ownership
from stateful_route.server.signals import drain_on_signal
from stateful_route.statistics import ClientStatistics, PodIdentity, ServerStatistics, StoreStatistics

__all__ = [
    "BaseConfig",
    "BatchError",
    "ClientDriver",
    "ClientStatistics",
    "ConfigError",
    "DrainCounts",
    "HandOff",
    "Instrumentation",
    "InvalidArgumentError",
    "Life",
    "LifecycleError",
    "Link",
    "LinkEvent",
    "LinkKind",
    "Movable",
    "NoCapacityError",
    "NoRoutablePodError",
    "NotOwnerError",
    "NotReplicatedError",
    "OrderRefusedError",
    "Ownership",
    "PodIdentity",
    "PodState",
    "RoutingError",
    "RoutingState",
    "ServerDriver",
    "ServerInfo",
    "ServerStatistics",
    "ServiceView",
    "StateRefusedError",
    "StatefulRoute",
    "StatefulRouteError",
    "StatefulRouteForClientDriver",
    "StatefulRouteForServerDriver",
    "StoreError",
    "StoreProtocolError",
    "StoreStatistics",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "__version__",
    "drain_on_signal",
]
