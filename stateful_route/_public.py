"""The names of the root, which imports this module when it is first asked for one of them."""

from stateful_route._version import __version__
from stateful_route.client.driver import ClientDriver
from stateful_route.client.following import Following
from stateful_route.client.placement.strategies import (
    BestOfRandom,
    Candidate,
    PlacementStrategy,
    PreferEmptier,
    PreferNewestVersion,
    PreferZone,
)
from stateful_route.client.pods.departures import Departures
from stateful_route.client.service_view import ServiceView
from stateful_route.client.targets import Absent, Target, There, Wait
from stateful_route.config import BaseConfig
from stateful_route.errors import (
    BatchError,
    ConfigError,
    InvalidArgumentError,
    LifecycleError,
    NoCapacityError,
    NoLinkError,
    NoOtherPodError,
    NoRoutablePodError,
    NotOwnerError,
    NotReplicatedError,
    PodError,
    PodFullError,
    PodNotAliveError,
    PodNotAnsweringError,
    PodTakesNothingError,
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
from stateful_route.server.load.sampling import CpuUsage, EventLoopLag
from stateful_route.server.load.sources import (
    ApplicationLoad,
    LiveLinks,
    LoadSource,
    PodFacts,
    SmoothedLoad,
    WaitingTasks,
    WeighedLoad,
)
from stateful_route.server.owning.ownership import Ownership
from stateful_route.server.parcels import Adopt, Parcel, StateCarrier, StateReceiver, Verdict
from stateful_route.server.signals import drain_on_signal
from stateful_route.statistics import ClientStatistics, PodIdentity, ServerStatistics, StoreStatistics
from stateful_route.store.protocol import Store

__all__ = [
    "Absent",
    "Adopt",
    "ApplicationLoad",
    "BaseConfig",
    "BatchError",
    "BestOfRandom",
    "Candidate",
    "ClientDriver",
    "ClientStatistics",
    "ConfigError",
    "CpuUsage",
    "Departures",
    "DrainCounts",
    "EventLoopLag",
    "Following",
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
    "LiveLinks",
    "LoadSource",
    "Movable",
    "NoCapacityError",
    "NoLinkError",
    "NoOtherPodError",
    "NoRoutablePodError",
    "NotOwnerError",
    "NotReplicatedError",
    "Outcome",
    "Ownership",
    "Parcel",
    "PlacementStrategy",
    "PodError",
    "PodFacts",
    "PodFullError",
    "PodIdentity",
    "PodLife",
    "PodNotAliveError",
    "PodNotAnsweringError",
    "PodReport",
    "PodState",
    "PodTable",
    "PodTakesNothingError",
    "PreferEmptier",
    "PreferNewestVersion",
    "PreferZone",
    "PreviousOwner",
    "RoutingError",
    "RoutingState",
    "ServerDriver",
    "ServerInfo",
    "ServerStatistics",
    "ServiceView",
    "SmoothedLoad",
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
    "WaitingTasks",
    "WeighedLoad",
    "__version__",
    "drain_on_signal",
]
