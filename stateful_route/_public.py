"""The names of the root, which imports this module when it is first asked for one of them."""

from stateful_route._version import __version__
from stateful_route.client.driver import ClientDriver
from stateful_route.client.pods.suspicion import Departures
from stateful_route.client.service_view import ServiceView
from stateful_route.client.targets import Absent, Target, There, Wait
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
from stateful_route.lives import Life
from stateful_route.models import (
    DrainCounts,
    Link,
    LinkChange,
    LinkKey,
    LinkKind,
    Outcome,
    PodLife,
    PodReport,
    PodState,
    PodTable,
    PreviousOwner,
    RoutingState,
    ServerInfo,
    StateObj,
)
from stateful_route.route import StatefulRoute
from stateful_route.server.departure.hand_over import HandOff
from stateful_route.server.departure.rebalance import Movable
from stateful_route.server.driver import ServerDriver
from stateful_route.server.owning.ownership import Ownership
from stateful_route.server.parcels import Adopt, Parcel, StateCarrier, StateReceiver, Verdict
from stateful_route.server.signals import drain_on_signal
from stateful_route.statistics import ClientStatistics, PodIdentity, ServerStatistics, StoreStatistics
from stateful_route.store.protocol import Store

__all__ = [
    "Absent",
    "Adopt",
    "BaseConfig",
    "BatchError",
    "ClientDriver",
    "ClientStatistics",
    "ConfigError",
    "Departures",
    "DrainCounts",
    "HandOff",
    "Instrumentation",
    "InvalidArgumentError",
    "Life",
    "LifecycleError",
    "Link",
    "LinkChange",
    "LinkEvent",
    "LinkKey",
    "LinkKind",
    "Movable",
    "NoCapacityError",
    "NoRoutablePodError",
    "NotOwnerError",
    "NotReplicatedError",
    "OrderRefusedError",
    "Outcome",
    "Ownership",
    "Parcel",
    "PodIdentity",
    "PodLife",
    "PodReport",
    "PodState",
    "PodTable",
    "PreviousOwner",
    "RoutingError",
    "RoutingState",
    "ServerDriver",
    "ServerInfo",
    "ServerStatistics",
    "ServiceView",
    "StateCarrier",
    "StateObj",
    "StateReceiver",
    "StateRefusedError",
    "StatefulRoute",
    "StatefulRouteError",
    "StatefulRouteForClientDriver",
    "StatefulRouteForServerDriver",
    "Store",
    "StoreError",
    "StoreProtocolError",
    "StoreStatistics",
    "StoreTimeoutError",
    "StoreUnavailableError",
    "Target",
    "There",
    "Verdict",
    "Wait",
    "__version__",
    "drain_on_signal",
]
