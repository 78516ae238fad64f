"""Lets links go from a pod that has more than its share, a few at a time, after others have come up."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from stateful_route._log import log
from stateful_route.errors import ConfigError, InvalidArgumentError, StoreError
from stateful_route.server.departure.receivers import PodSample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from stateful_route.pods import PodTable
    from stateful_route.server.departure.hand_over import HandOver
    from stateful_route.store.protocol import Store

# It stops within this share of the mean load, and begins above twice as much.
_TOLERANCE = 0.1
# The largest share of its links that a pod lets go in one period.
_SHARE = 0.05
# What is not owned is passed over; so many names are looked at above what the pod owns, should they never end.
_NAMES = 1000

Movable: TypeAlias = "Callable[[int], Iterable[str]]"
"""Names up to so many uids that may go to another pod, those that are missed least first: idle ones, say."""


def links_to_shed(table: PodTable, pod_index: int | None, *, tolerance: float, share: float, shedding: bool) -> int:
    """Return how many links a pod should let go now.

    Its load is held against the mean of the routable pods, each in relation to its capacity. Above the mean by twice
    the tolerance it begins, and goes on until it is above by no more than the tolerance: so it does not start and stop
    at every heartbeat. At most ``share`` of its links go at once. Two pods of 10 links differ by chance: nothing is
    done for less than a link.

    Args:
        table: the pods of the service, or that pod with a random sample of the others.
        pod_index: the pod that is asked about.
        tolerance: a share of the mean, for example 0.1.
        share: of the links of the pod, for example 0.05.
        shedding: whether the last answer was above 0.

    """
    routable = [pod for pod in table.pods if pod.is_routable(table.now)]
    own = next((pod.report for pod in routable if pod.pod_index == pod_index), None)
    mean = sum(pod.report.load for pod in routable) / max(sum(pod.report.capacity for pod in routable), 1e-9)
    if own is None or not own.load or not own.links or len(routable) < 2:  # noqa: PLR2004 - nowhere to go
        return 0
    excess = own.load / own.capacity - mean
    if excess <= (tolerance if shedding else 2 * tolerance) * mean:
        return 0
    # What is above the mean, in links of the weight that this pod's have; the pod keeps what the tolerance allows.
    surplus = (excess - tolerance * mean / 2) * own.capacity * own.links / own.load
    return min(int(surplus), max(1, int(share * own.links)))


class Rebalancer:
    """Looks at the pods of the service each period, and lets links of its own pod go. Never takes one."""

    def __init__(
        self,
        store: Store,
        hand_over: HandOver,
        movable: Movable | None,
        random: Random,
    ) -> None:
        """Shed among what ``movable`` names; ``hand_over`` hands each of them off and releases it.

        Raises:
            ConfigError: if nothing says what may go.

        """
        if movable is None:
            raise ConfigError("rebalance", value=True, allowed="only beside movable=, which names what may go")
        self._lease = hand_over.owned.pod_lease
        self._hand_over = hand_over
        self._owned = hand_over.owned
        self._movable = movable
        self._pods = PodSample(store, hand_over.owned.pod_lease, random)
        self._shedding = False
        self._fault: type[BaseException] | None = None
        self.moved = 0
        """How many links were let go since the pod started."""

    async def cycle(self) -> None:
        """Look once, and let go what should go now. Whatever goes wrong is logged, and left to the next time."""
        try:
            with self._hand_over.faults.together(), self._owned.faults.together():
                await self._cycle()
        except Exception as error:  # noqa: BLE001 - of the application, or of a store of its own
            self._note(error)

    async def _cycle(self) -> None:
        try:
            table = await self._pods.read()
        except StoreError as error:
            log.debug("rebalancing_skipped", "no rebalancing: %(error)s", error=error)
            return
        count = links_to_shed(table, self._lease.pod_index, tolerance=_TOLERANCE, share=_SHARE, shedding=self._shedding)
        self._shedding = count > 0
        if count:
            await self._shed(count)

    async def _shed(self, count: int) -> None:
        before = self.moved
        for uid in self._choose(count):
            try:
                self.moved += await self._hand_over.let_go(uid)
            except StoreError as error:
                log.info("rebalancing_paused", "rebalancing stops for now: %(error)s", error=error)
                break
        log.info(
            "rebalanced",
            "%(pod)s let %(uids)d of %(owned)d links go",
            pod=self._lease.name,
            uids=self.moved - before,
            owned=len(self._owned),
        )

    def _choose(self, count: int) -> list[str]:
        """Return what ``movable`` names and the pod owns, before any of it goes: it may name what then changes.

        If it fails midway, that is what it had named by then.
        """
        chosen: dict[str, None] = {}
        try:
            for uid in itertools.islice(_uids(self._movable(count)), len(self._owned) + _NAMES):
                if self._owned.get(uid) is not None:
                    chosen[uid] = None
                if len(chosen) >= count:
                    break
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the application's; nobody cancels a def
            self._note(error)
        else:
            self._note_none()
        return list(chosen)

    def _note(self, error: BaseException) -> None:
        """Log a fault, and not again in each period until it is over, or another one comes."""
        again = type(error) is self._fault
        self._fault = type(error)
        log.log(
            logging.DEBUG if again else logging.ERROR,
            "rebalancing_failed",
            "rebalancing of %(pod)s fails, and is tried again each period",
            pod=self._lease.name,
            exc_info=error,
        )

    def _note_none(self) -> None:
        if self._fault is not None:
            log.warning("rebalancing_recovered", "rebalancing of %(pod)s works again", pod=self._lease.name)
        self._fault = None


def _uids(named: Iterable[object]) -> Iterator[str]:
    """Give what the application has named.

    Raises:
        InvalidArgumentError: if that is no uid; one string would be taken for a uid of each of its characters.

    """
    if isinstance(named, str | bytes) or not isinstance(named, Iterable):
        raise InvalidArgumentError("what movable() returned", named, "uids: an iterable of strings")
    for uid in named:
        if not isinstance(uid, str):
            raise InvalidArgumentError("what movable() named", uid, "a uid, a string")
        yield uid
