"""A state on its way to another pod, and what carries it there."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Protocol, Self, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractContextManager

    from stateful_route.pods import PodLife, PodState

Adopt: TypeAlias = "Callable[[str, bytes, int], Awaitable[object] | None]"
"""What the application does with a state that has come along with a uid, before the uid is owned here.

It gets the uid, what ``hand_off`` returned in the other pod, and the epoch at which this pod will own the uid. What it
returns is awaited if it can be, for 10 s at most.
"""

MAX_STATE = 16 * 1024 * 1024
"""The default of how many bytes the state of a uid may have to travel."""


@attrs.frozen
class Parcel:
    """The state of a uid, sent to another pod.

    Attributes:
        uid: whose state it is.
        move: the name of this attempt: letters and digits.
        sender: the life of the pod that has the uid.
        epoch: at which it has it.
        idle_ttl: for how many seconds the uid may be idle; ``None`` for ever.
        checksum: the CRC-32 of the state.
        data: the state.

    """

    uid: str
    move: str
    sender: PodLife
    epoch: int
    idle_ttl: float | None
    checksum: int
    data: bytes = attrs.field(repr=False)

    @classmethod
    def packed(
        cls, uid: str, move: str, sender: PodLife, epoch: int, *, idle_ttl: float | None = None, data: bytes
    ) -> Self:
        """Return a state with its checksum."""
        return cls(uid, move, sender, epoch, idle_ttl, zlib.crc32(data), data)

    @property
    def is_whole(self) -> bool:
        """Whether the state is as it was sent."""
        return zlib.crc32(self.data) == self.checksum


@attrs.frozen
class Verdict:
    """What came of an attempt.

    Attributes:
        uid: of the parcel.
        move: the name of the attempt.
        moved: whether the link is the receiver's now; ``None`` if the sender does not know, and leaves it to the
            receiver to find out.
        epoch: of the link that was moved.

    """

    uid: str
    move: str
    moved: bool | None
    epoch: int | None = None


class StateReceiver(Protocol):
    """Where a carrier delivers what has come for a pod: the driver of that pod."""

    @property
    def pod_index(self) -> int | None:
        """The index of the pod; ``None`` while it has leased none."""
        ...

    def room_for(self, uid: str, size: int) -> AbstractContextManager[None]:
        """Return a context that keeps room for so many bytes, in which a carrier takes them in part by part.

        Raises:
            StateRefusedError: if the pod takes no state now, or has no room.

        """
        ...

    async def receive(self, parcel: Parcel) -> PodLife:
        """Keep a parcel, and return the life of this pod that does.

        Raises:
            StateRefusedError: if the pod takes no state now, or has no room, or the parcel is not whole.

        """
        ...

    async def settle(self, verdict: Verdict) -> None:
        """Act on what came of the attempt: adopt the state, or drop it. Returns once that is done."""
        ...

    def lose(self, uid: str, move: str) -> None:
        """Note that the sender is not connected any more, and nothing more comes of it."""
        ...


class StateCarrier(Protocol):
    """Carries parcels from pod to pod: one for each driver. Its calls have deadlines; the driver sets them.

    It may lose, repeat and reorder what it is given, and be late: the driver is safe all the same. What it delivers is
    to be of a pod of this service: who can deliver a parcel writes the memory of a pod.
    """

    def attach(self, receiver: StateReceiver) -> None:
        """Deliver to that receiver what comes for the pod of this driver, which is not started yet."""
        ...

    async def send(self, pod: PodState, parcel: Parcel) -> PodLife:
        """Have the parcel received by that pod, and return what its ``receive`` returned.

        Whatever it raises means that it was not received.
        """
        ...

    async def settle(self, pod: PodState, verdict: Verdict) -> None:
        """Have ``settle`` called there, and return once that has. What it raises is of no consequence."""
        ...
