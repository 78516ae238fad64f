"""States between two processes: whole, refused, cut off, and what a peer may not send."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

import attrs
import pytest

from stateful_route import PodState, StateRefusedError
from stateful_route.store import PodLife, PodReport, StateObj
from stateful_route.travel import Parcel, Verdict
from stateful_route.web.addresses import PeerAddress
from stateful_route.web.errors import PeerError, PeerLostError, PeerProtocolError
from stateful_route.web.peer.dialer import Dialer
from stateful_route.web.peer.frames import Kind, pack, pack_with_body
from stateful_route.web.peer.keys import PeerKeys
from stateful_route.web.peer.listener import PeerListener
from stateful_route.web.peer.states import PeerCarrier, pack_parcel, unpack_parcel
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

LIFE = PodLife(7, 1_800_000_000_000_001)
SENDER = PodLife(2, 1_800_000_000_000_000)


class Receiver:
    """Notes what it is given."""

    pod_index = 7

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.verdicts: list[Verdict] = []
        self.lost: list[str] = []
        self.refuses = ""
        self.late: asyncio.Event | None = None
        self.expected: list[int] = []

    @contextlib.contextmanager
    def room_for(self, uid: str, size: int) -> Iterator[None]:
        if self.refuses:
            raise StateRefusedError(uid, self.refuses)
        self.expected.append(size)
        yield

    async def receive(self, parcel: Parcel) -> PodLife:
        self.parcels.append(parcel)
        if self.late is not None:
            await self.late.wait()
        return LIFE

    async def settle(self, verdict: Verdict) -> None:
        await asyncio.sleep(0)
        self.verdicts.append(verdict)

    def lose(self, uid: str, move: str) -> None:
        del uid
        self.lost.append(move)


@attrs.define
class Both:
    """Two processes: ``sender`` sends, and ``receiver`` is the pod of the other one."""

    sender: PeerCarrier
    receiver: Receiver
    pod: PodState
    dialer: Dialer
    listener: PeerListener


@contextlib.asynccontextmanager
async def both_sides() -> AsyncIterator[Both]:
    listener = PeerListener(PeerKeys(None), "prod/room", lambda stream, _: stream.close(), silence=2.0)
    address = await listener.listen_tcp("127.0.0.1", 0)
    dialer = Dialer(PeerKeys(None), "prod/room", connect_timeout=2.0, silence=2.0)
    here, there, receiver = PeerCarrier(dialer), PeerCarrier(dialer), Receiver()
    there.attach(receiver)
    listener.take_state = there.take
    report = PodReport(address=str(address), adopts=True)
    pod = PodState(pod_index=7, incarnation=1, report=report, load_state=StateObj(0, 0.0, 1.0))
    try:
        yield Both(here, receiver, pod, dialer, listener)
    finally:
        await dialer.close()
        await there.stop()
        listener.close_connections()
        listener.close()


def parcel_of(data: bytes, uid: str = "alice", idle_ttl: float | None = None) -> Parcel:
    return Parcel.packed(uid, "00ff00ff00ff00ff", SENDER, 1_800_000_000_000_123, idle_ttl=idle_ttl, data=data)


@pytest.mark.parametrize("size", [0, 1, 64 * 1024, 64 * 1024 + 1, 128 * 1024, 300_000, 5_000_000])
async def test_a_state_comes_whole(size: int) -> None:
    """A state comes as it was sent, with all that is said of it, and the receiver says in which life it has it."""
    parcel = parcel_of(os.urandom(size), uid="böb\udc80\0", idle_ttl=0.1 + 0.2)
    async with both_sides() as both:
        assert LIFE == await both.sender.send(both.pod, parcel)

        assert [parcel] == both.receiver.parcels
        assert [size] == both.receiver.expected
        assert both.receiver.parcels[0].is_whole


@pytest.mark.parametrize(("moved", "epoch"), [(True, 1_800_000_000_000_124), (False, None), (None, None)])
async def test_a_verdict(moved: bool | None, epoch: int | None) -> None:
    """The receiver is told what came of it, on the same stream; or that it is not known."""
    parcel = parcel_of(b"state")
    async with both_sides() as both:
        await both.sender.send(both.pod, parcel)
        await both.sender.settle(both.pod, Verdict("alice", parcel.move, moved, epoch))
        await eventually(lambda: bool(both.receiver.verdicts or both.receiver.lost))

        assert [Verdict("alice", parcel.move, moved, epoch)] == both.receiver.verdicts
        assert not both.receiver.lost


@pytest.mark.parametrize("size", [10, 300_000])
async def test_an_answer_that_is_late(size: int) -> None:
    """A receiver whose answer comes too late is told that nothing will come of it: it need not keep the state."""
    parcel = parcel_of(bytes(size))
    async with both_sides() as both:
        both.receiver.late = asyncio.Event()
        sending = asyncio.create_task(both.sender.send(both.pod, parcel))
        await eventually(lambda: bool(both.receiver.parcels))
        sending.cancel()
        await asyncio.wait([sending])
        both.receiver.late.set()
        await eventually(lambda: bool(both.receiver.verdicts or both.receiver.lost))

        assert [Verdict("alice", parcel.move, moved=False)] == both.receiver.verdicts


async def test_many_at_once() -> None:
    """Many states share one connection, each with its own answer."""
    async with both_sides() as both:
        parcels = [attrs.evolve(parcel_of(os.urandom(50_000 * (n % 5)), uid=f"u{n}"), move=f"m{n}") for n in range(100)]
        await asyncio.gather(*(both.sender.send(both.pod, parcel) for parcel in parcels))
        await asyncio.gather(
            *(both.sender.settle(both.pod, Verdict(parcel.uid, parcel.move, True, 5)) for parcel in parcels)
        )

        assert {parcel.uid for parcel in parcels} == {parcel.uid for parcel in both.receiver.parcels}
        assert all(parcel in parcels for parcel in both.receiver.parcels)
        assert 100 == len(both.receiver.verdicts)
        assert 1 == len(both.listener.connections)


@pytest.mark.parametrize("size", [10, 5_000_000])
async def test_a_refusal(size: int) -> None:
    """A receiver that has no room says so, and the sender is told why."""
    async with both_sides() as both:
        both.receiver.refuses = "no room"

        with pytest.raises(StateRefusedError, match="no room"):
            await both.sender.send(both.pod, parcel_of(bytes(size)))
        assert not both.receiver.parcels


async def test_the_sender_is_lost() -> None:
    """A receiver whose sender is gone is told so."""
    async with both_sides() as both:
        await both.sender.send(both.pod, parcel_of(b"state"))
        for connection in list(both.listener.connections):
            connection.abort(PeerLostError("gone"))

        await eventually(lambda: both.receiver.lost == ["00ff00ff00ff00ff"])
        with pytest.raises(PeerError):
            await both.sender.settle(both.pod, Verdict("alice", "00ff00ff00ff00ff", True, 5))


async def test_nobody_adopts() -> None:
    """A process that adopts nothing closes the connection of who sends a state: nobody should."""
    async with both_sides() as both:
        both.listener.take_state = None

        with pytest.raises(PeerError):
            await both.sender.send(both.pod, parcel_of(b"state"))


async def test_no_address() -> None:
    """A pod without an address for peers is not reached."""
    async with both_sides() as both:
        with pytest.raises(PeerError, match="no address"):
            await both.sender.send(attrs.evolve(both.pod, report=PodReport()), parcel_of(b"state"))


PARTS = [b"alice", b"m1", b"2", b"3", b"4", b"5", b"100000", b""]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"garbage",
        pack_with_body(pack([]), b""),
        pack_with_body(pack(PARTS[:-1]), b""),
        pack_with_body(pack([*PARTS, b"more"]), b""),
        *(pack_with_body(pack([*PARTS[:at], b"-1", *PARTS[at + 1 :]]), b"") for at in range(2, 7)),
        pack_with_body(pack([*PARTS[:2], b"9" * 30, *PARTS[3:]]), b""),
        pack_with_body(pack([*PARTS[:7], b"soon"]), b""),
        pack_with_body(pack([b"\xff\xff", *PARTS[1:]]), b""),
        pack_with_body(pack([b"alice", b"\xff", *PARTS[2:]]), b""),
    ],
)
def test_a_head_that_is_none(payload: bytes) -> None:
    """What is no head of a state is refused."""
    with pytest.raises(PeerProtocolError):
        unpack_parcel(payload)


@pytest.mark.parametrize(
    "frames",
    [
        [(Kind.LAST, b"short")],
        [(Kind.BODY, bytes(90_000)), (Kind.BODY, bytes(90_000))],
        [(Kind.TEXT, bytes(100_000))],
    ],
    ids=["short", "long", "text"],
)
async def test_a_state_that_is_not_as_it_was_said(frames: list[tuple[Kind, bytes]]) -> None:
    """A state that is shorter or longer than it was said, or something else, is not received; the others go on."""
    async with both_sides() as both:
        connection = await both.dialer.connect(_address(both))
        head = pack_parcel(parcel_of(bytes(100_000)))
        stream = connection.open_state(head)
        for kind, payload in frames:
            connection.send(kind, stream.sid, payload)
        with contextlib.suppress(PeerError):
            async with asyncio.timeout(2.0):
                kind, _ = await stream.next()
                assert Kind.REFUSED is kind

        assert not both.receiver.parcels
        assert LIFE == await both.sender.send(both.pod, parcel_of(b"state"))


async def test_inline_and_not_as_long_as_said() -> None:
    """A short state whose length is not the one that was said is not whole, as its checksum says."""
    payload = pack_with_body(pack([*PARTS[:6], b"4", b""]), b"abcdef")

    assert not unpack_parcel(payload).parcel.is_whole


def _address(both: Both) -> PeerAddress:
    address = PeerAddress.parse(both.pod.report.address)
    assert address is not None
    return address
