"""Both ends of what travels: what a pod needs to send states, and to take them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route._validation import check_count
from stateful_route.errors import ConfigError
from stateful_route.server.callbacks import check_adopt
from stateful_route.server.departure.arrivals import Arrivals
from stateful_route.server.departure.receivers import Receivers
from stateful_route.server.departure.travel import Travel

if TYPE_CHECKING:
    from random import Random

    from stateful_route.config import BaseConfig
    from stateful_route.server.life.status import PodStatus
    from stateful_route.server.owning.operations import UidOperations
    from stateful_route.server.parcels import Adopt, StateCarrier
    from stateful_route.store.protocol import Store

# Seconds for which a pod that stops waits until receivers were told.
_TOLD_WITHIN = 1.0


def check_travel(hand_off: object, adopt: Adopt | None, carrier: StateCarrier | None, max_state: int) -> None:
    """Refuse what does not go together.

    Raises:
        ConfigError: if one of three is missing.
        InvalidArgumentError: if ``adopt`` or ``max_state`` is none.

    """
    check_count("max_state", max_state)
    if adopt is None:
        if carrier is not None:
            raise ConfigError("carrier", carrier, "only beside adopt=, which takes what it carries")
        return
    check_adopt("adopt", adopt)
    if hand_off is None:
        raise ConfigError("adopt", adopt, "only beside hand_off=, which returns what is adopted")
    if carrier is None:
        allowed = (
            "what carries a state to another pod: an object with the methods of StateCarrier; "
            "stateful_route.testing.LocalCarrier() carries within a process, and StickyMiddleware has one of its own"
        )
        raise ConfigError("carrier", None, allowed)


class Travelling:
    """Sends states of this pod, and takes those of others."""

    def __init__(  # noqa: PLR0917 - the parts of a driver
        self,
        store: Store,
        operations: UidOperations,
        status: PodStatus,
        carrier: StateCarrier,
        config: BaseConfig,
        random: Random,
        max_state: int,
    ) -> None:
        """Send and take over that carrier."""
        status.adopts = True
        receivers = Receivers(store, operations.owned.pod_lease, random)
        self.travel = Travel(operations, receivers, carrier, random, max_state=max_state)
        self.arrivals = Arrivals(operations, status, max_state=max_state, max_links=config.max_links)
        carrier.attach(self.arrivals)

    async def stop(self, seconds: float) -> None:
        """Send and take nothing any more; wait for so many seconds at most until receivers were told."""
        await self.travel.stop(max(0.0, min(seconds, _TOLD_WITHIN)))
        await self.arrivals.stop()
