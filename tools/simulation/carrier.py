"""What carries states between simulated pods: late, and not always."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.errors import StatefulRouteError, StateRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from stateful_route.pods import PodLife, PodState
    from stateful_route.server.parcels import Parcel, StateReceiver, Verdict
    from tools.simulation.loop import Machine, VirtualLoop
    from tools.simulation.network import Latency


# One in so many parcels comes once more, this many milliseconds later at most. The name of the attempt says which, so
# no number is drawn for it.
_REPEATED, _LATEST = 8, 3000


@attrs.frozen
class Roads:
    """Where the pods of a world are, and how well they reach each other.

    Attributes:
        loop: of the world.
        find: returns the carrier of the process that has a pod index now, if there is one.
        latency: of a message.
        losses: the chance that a message is lost, or comes up to ``late`` seconds late.
        late: in seconds.

    """

    loop: VirtualLoop
    find: Callable[[int], SimulatedCarrier | None]
    latency: Latency
    losses: float
    late: float


class SimulatedCarrier:
    """The carrier of one simulated pod.

    What is sent may be lost, its answer too, or come when nobody waits for it, or come twice.
    """

    def __init__(self, roads: Roads, machine: Machine, random: Random) -> None:
        """Carry from that machine."""
        self.machine = machine
        self.receiver: StateReceiver
        self._roads = roads
        self._random = random

    def attach(self, receiver: StateReceiver) -> None:
        """See ``StateCarrier``."""
        self.receiver = receiver

    async def send(self, pod: PodState, parcel: Parcel) -> PodLife:
        """See ``StateCarrier``."""
        name = int(parcel.move, 16)
        if not name % _REPEATED:
            self._roads.loop.after(name // _REPEATED % _LATEST / 1000, self._repeat, pod.pod_index, parcel)
        life: PodLife = await self._call(pod, parcel.uid, lambda there: there.receive(parcel))
        return life

    def _repeat(self, pod_index: int, parcel: Parcel) -> None:
        """Deliver a parcel once more."""
        there = self._roads.find(pod_index)
        if there is None:
            return

        async def serve(receiver: StateReceiver) -> None:
            with contextlib.suppress(StatefulRouteError):
                await receiver.receive(parcel)

        there.machine.call(lambda: there.machine.spawn(serve(there.receiver)))

    async def settle(self, pod: PodState, verdict: Verdict) -> None:
        """See ``StateCarrier``."""
        await self._call(pod, verdict.uid, lambda there: there.settle(verdict))

    async def _call(self, pod: PodState, uid: str, call: Callable[[StateReceiver], Awaitable[Any]]) -> Any:
        there = self._roads.find(pod.pod_index)
        if there is None:
            raise StateRefusedError(uid, "nobody is there")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def serve() -> None:
            try:
                result: Any = await call(there.receiver)
            except Exception as error:  # noqa: BLE001 - it is the answer
                result = error
            self._go(self.machine, _set, answer, result)

        self._go(there.machine, lambda: there.machine.spawn(serve()))
        result = await answer
        if isinstance(result, Exception):
            raise result
        return result

    def _go(self, to: Machine, what: Callable[..., object], *args: Any) -> None:
        """Have something done on another machine after a while, or never."""
        roads, random = self._roads, self._random
        seconds = roads.latency.draw(roads.loop.random)
        if random.random() < roads.losses:
            if random.random() < 0.5:
                return
            seconds += random.random() * roads.late
        roads.loop.after(seconds, to.call, what, *args)


def _set(future: asyncio.Future[Any], result: object) -> None:
    if not future.done():
        future.set_result(result)
