"""A network between simulated machines and a store, with latency, silence and cuts; one connection keeps its order."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from tools.simulation.loop import Machine, VirtualLoop

_APART = 1e-7  # seconds between two messages that arrive over one connection


@attrs.frozen
class Latency:
    """The latency of a message, in seconds: a base, an exponential part, and now and then a spike."""

    base: float = 0.0005
    mean: float = 0.0005
    spikes: float = 0.0
    """The chance that a message takes up to ``spike`` seconds more; those behind it wait for it."""
    spike: float = 0.0

    def draw(self, random: Random) -> float:
        """Draw the latency of one message."""
        seconds = self.base + random.expovariate(1.0) * self.mean
        if self.spikes and random.random() < self.spikes:
            seconds += random.random() * self.spike
        return seconds


class Channel:
    """One direction of a connection: messages arrive late, and in order."""

    def __init__(self, network: Network, arrive: Callable[[Any], object]) -> None:
        """Call ``arrive`` with each message."""
        self._network = network
        self._loop = network.loop
        self._arrive = arrive
        self._last = 0.0
        self._sent = 0
        self._arrived = 0
        self._cut_after: int | None = None
        self._held_until = 0.0
        self._held: deque[tuple[int, Any]] = deque()

    @property
    def in_flight(self) -> int:
        """How many messages were sent and have not arrived."""
        return self._sent - self._arrived

    def send(self, item: Any) -> None:
        """Send a message, unless the channel was cut."""
        if self._cut_after is not None:
            return
        self._sent += 1
        loop = self._loop
        self._last = max(loop.now + self._network.latency.draw(loop.random), self._last + _APART)
        loop.at(self._last, self._come, self._sent, item)

    def hold(self, seconds: float) -> None:
        """Hold all messages for so many seconds; then they arrive in order."""
        until = self._loop.now + seconds
        if until > self._held_until:
            self._held_until = until
            self._loop.at(until, self._let_go, until)

    def cut(self, delivered: int) -> None:
        """Lose all but the first ``delivered`` messages in flight, and all that are sent from now on."""
        if self._cut_after is None or self._cut_after > self._arrived + delivered:
            self._cut_after = self._arrived + delivered

    def _come(self, number: int, item: Any) -> None:
        if self._held or self._held_until > self._loop.now:
            self._held.append((number, item))
        else:
            self._take(number, item)

    def _take(self, number: int, item: Any) -> None:
        self._arrived = number
        if self._cut_after is None or number <= self._cut_after:
            self._arrive(item)

    def _let_go(self, until: float) -> None:
        if until == self._held_until:
            self._held_until = 0.0
            self._let_next_go()

    def _let_next_go(self) -> None:
        if self._held and self._held_until <= self._loop.now:
            self._take(*self._held.popleft())
            if self._held:
                # Many held messages arrive in a burst, or the queue would grow for ever if more is sent than arrives.
                pause = self._loop.random.random() * self._network.latency.mean / (1 + len(self._held) // 50)
                self._loop.after(_APART + pause, self._let_next_go)


_LOST = object()


def _ignore(*_: object) -> None:
    """Ignore it: nobody listens."""


class Connection:
    """A connection of a machine to the store.

    ``to_store`` gets what the machine sends; ``to_machine`` is called on the machine with what the store answers, and
    ``lost`` once, when the machine learns that the connection is gone.
    """

    def __init__(
        self, network: Network, machine: Machine, kind: str, to_store: Callable[[Connection, Any], object]
    ) -> None:
        """Open a connection; only an answer tells whether it works."""
        self.network = network
        self.machine = machine
        self.kind = kind
        self.number = network.loop.next_number()
        self.to_machine: Callable[[Any], object] = _ignore
        self.lost: Callable[[], object] = _ignore
        self.open = True
        """Whether the store may still answer over it."""
        self.closed_here = False
        self.up = Channel(network, lambda item: to_store(self, item))
        self.down = Channel(network, self._deliver)
        network.connections.append(self)

    def __repr__(self) -> str:
        return f"{self.machine.name}/{self.kind}{self.number}"

    def send(self, item: Any) -> None:
        """Send something to the store."""
        if not self.closed_here:
            self.up.send(item)

    def answer(self, item: Any) -> None:
        """Send something to the machine."""
        if self.open:
            self.down.send(item)

    def close(self) -> None:
        """Close it on the side of the machine. Some of what is in flight may still arrive, late."""
        if self.closed_here:
            return
        self.closed_here = True
        self.network.forget(self)
        self._lose_some(self.up)
        self.down.cut(0)
        self.network.loop.after(0.0, self._end)

    def reset(self, *, told: bool = True) -> None:
        """Break it: some of what is in flight arrives. ``told`` is whether the machine learns of it at once."""
        if not self.open:
            return
        network, down = self.network, self.down
        self._lose_some(self.up)
        self._end()
        delivered = self._some_of(down)
        if told:
            down.send(_LOST)
            if delivered == down.in_flight - 1:
                return
            # The machine learns of it though the message about it was cut.
            network.loop.after(network.latency.draw(network.loop.random), self._deliver, _LOST)
        down.cut(delivered)

    def _end(self) -> None:
        self.open = False
        self.network.gone(self)

    def _lose_some(self, channel: Channel) -> None:
        random = self.network.loop.random
        channel.cut(self._some_of(channel))
        if channel.in_flight and random.random() < 0.3:
            channel.hold(random.random() * self.network.latest)

    def _some_of(self, channel: Channel) -> int:
        return self.network.loop.random.randint(0, channel.in_flight)

    def _deliver(self, item: Any) -> None:
        if self.closed_here:
            return
        if item is _LOST:
            self.closed_here = True
            self.network.forget(self)
            self.machine.call(self.lost)
        else:
            self.machine.call(self.to_machine, item)


class Network:
    """All connections, and their faults."""

    def __init__(self, loop: VirtualLoop, latency: Latency, latest: float) -> None:
        """Deliver after ``latency``; what is sent over a connection that breaks arrives up to ``latest`` later."""
        self.loop = loop
        self.latency = latency
        self.latest = latest
        self.connections: list[Connection] = []
        self.gone: Callable[[Connection], object] = _ignore
        self._cuts: dict[str, list[tuple[float, str, bool, bool]]] = {}

    def calm(self) -> None:
        """End the spikes of latency."""
        self.latency = attrs.evolve(self.latency, spikes=0.0)

    def connect(self, machine: Machine, kind: str, to_store: Callable[[Connection, Any], object]) -> Connection:
        """Open a connection of a machine; a silence of its kind covers it as well."""
        connection = Connection(self, machine, kind, to_store)
        for until, kinds, up, down in self._cuts.get(machine.name, ()):
            if until > self.loop.now and kind.startswith(kinds):
                self._hold(connection, until - self.loop.now, up=up, down=down)
        return connection

    def forget(self, connection: Connection) -> None:
        """Forget a connection that is closed on the side of its machine."""
        if connection in self.connections:
            self.connections.remove(connection)

    def of(self, machine: Machine, kind: str = "") -> list[Connection]:
        """Return the connections of a machine whose kind begins with ``kind``."""
        return [each for each in self.connections if each.machine is machine and each.kind.startswith(kind)]

    def silence(
        self, machine: Machine, seconds: float, kind: str = "", *, up: bool = True, down: bool = True, new: bool = True
    ) -> None:
        """Hold all messages of a machine for so many seconds; with ``new`` also over connections made meanwhile."""
        if new:
            self._cuts.setdefault(machine.name, []).append((self.loop.now + seconds, kind, up, down))
        for connection in self.of(machine, kind):
            self._hold(connection, seconds, up=up, down=down)

    def reset(self, machine: Machine, kind: str = "", *, told: bool = True) -> None:
        """Break the connections of a machine."""
        for connection in self.of(machine, kind):
            connection.reset(told=told)

    def kill(self, machine: Machine) -> None:
        """Break the connections of a machine that was killed: what it sent may still arrive."""
        for connection in self.of(machine):
            connection.close()

    def _hold(self, connection: Connection, seconds: float, *, up: bool, down: bool) -> None:
        if up:
            connection.up.hold(seconds)
        if down:
            connection.down.hold(seconds)
