"""A carrier of states between drivers of one process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stateful_route.errors import StateRefusedError

if TYPE_CHECKING:
    from stateful_route.pods import PodLife, PodState
    from stateful_route.server.parcels import Parcel, StateReceiver, Verdict


class LocalCarrier:
    """Carries states between all drivers that share it: pods of one service, in one process and one event loop.

    A test that wants faults overrides ``send`` or ``settle``.
    """

    def __init__(self) -> None:
        self._receivers: list[StateReceiver] = []

    def attach(self, receiver: StateReceiver) -> None:
        """See ``StateCarrier``."""
        self._receivers.append(receiver)

    def receiver(self, pod: PodState) -> StateReceiver | None:
        """Return the driver of a pod, the one that came last, if there is one."""
        found = (receiver for receiver in reversed(self._receivers) if receiver.pod_index == pod.pod_index)
        return next(found, None)

    async def send(self, pod: PodState, parcel: Parcel) -> PodLife:
        """See ``StateCarrier``."""
        receiver = self.receiver(pod)
        if receiver is None:
            raise StateRefusedError(parcel.uid, f"pod {pod.pod_index} has no driver in this process")
        return await receiver.receive(parcel)

    async def settle(self, pod: PodState, verdict: Verdict) -> None:
        """See ``StateCarrier``."""
        receiver = self.receiver(pod)
        if receiver is not None:
            await receiver.settle(verdict)
