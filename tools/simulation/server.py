"""The store as the network sees it: a memory store that applies each request at once, in the order of arrival."""

from __future__ import annotations

import copy
import zlib
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import attrs

from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.links import LinkKey
from stateful_route.testing.memory.store import MemoryStore
from tools.simulation.loop import SimulationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from stateful_route.links import TopicEvent
    from stateful_route.pods import Topic
    from tools.simulation.loop import Machine
    from tools.simulation.network import Connection, Network


def uids_of(name: str, args: tuple[Any, ...]) -> list[str]:
    """Return the uids that an operation is about."""
    if name == "place_links":
        return [uid for uid, _ in args[1]]
    if name == "get_links":
        return list(args[1])
    return [args[0].uid] if args and isinstance(args[0], LinkKey) else []


def node_of(uid: str, nodes: int) -> int:
    """Return which node of a cluster has a link: never the first, which has the pods, if there are more."""
    return 1 + zlib.crc32(uid.encode()) % (nodes - 1) if nodes > 1 else 0


def run_now(coro: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine that waits for nothing, and return what it returns, or the ``StoreError`` that it raises.

    Raises:
        SimulationError: if it waits for something.

    """
    try:
        coro.send(None)
    except StopIteration as end:
        return end.value
    except StoreError as error:
        return error
    coro.close()
    raise SimulationError("an operation of the memory store waits for something: the simulator needs it in one piece")


class InstantStore(MemoryStore):
    """A memory store whose operations do not wait for anything; what it announces goes to ``announce``."""

    announce: Callable[[Topic, TopicEvent], object]

    async def _gate(self, name: str, *, after: bool) -> None:
        """Wait for nothing: latency is the network's."""

    def _announce(self, topic: Topic, event: TopicEvent) -> None:
        self.announce(topic, event)


@attrs.define(eq=False)
class Request:
    """A call of an operation by a machine."""

    number: int
    machine: Machine
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    asked_at: float
    chosen: bool = False
    """Whether it is about a pod that the application has chosen."""


class StoreServer:
    """The server, in front of ``core``, which has the links and the pods.

    Attributes:
        nodes: how many nodes it has; each machine has a connection to each. They forget and stop together.
        refuses: whether connections are refused, as when the process is not there.
        seen: called with what arrives, is applied or is announced.
        before: called before a request is applied.
        after: called with a request that was applied, and its answer.

    """

    def __init__(self, network: Network, *, start: float = 1_800_000_000.0) -> None:
        """Begin empty, with a clock that shows ``start``."""
        self.network = network
        self.loop = network.loop
        self.offset = start - self.loop.now
        self.core = InstantStore(self.clock)
        self.core.announce = self._announce
        self.nodes = 1
        self.refuses = False
        self.seen: Callable[[str, Request | None, Any], object] = _ignore
        self.before: Callable[[Request], object] = _ignore
        self.after: Callable[[Request, Any], object] = _ignore
        self._subscribed: dict[Connection, Topic] = {}
        self._paused_until = 0.0
        self._inbox: deque[tuple[Connection, Any]] = deque()
        self._requests: dict[int, Request] = {}
        self._answers: dict[int, Any] = {}
        self._down: dict[int, float] = {}
        self._muted: dict[Machine, float] = {}
        network.gone = self._gone

    def clock(self) -> float:
        """Return the seconds since 1970 by the clock of the store."""
        return self.loop.now + self.offset

    # -- faults

    def pause(self, seconds: float) -> None:
        """Handle nothing for so many seconds; requests wait."""
        until = self.loop.now + seconds
        if until > self._paused_until:
            self._paused_until = until
            self.loop.at(until, self._resume, until)

    def restart(self, away: float) -> None:
        """Break all connections, and refuse new ones for so many seconds."""
        self.refuses = True
        self._inbox.clear()
        for connection in tuple(self.network.connections):
            connection.reset()
        self.loop.after(away, self._come_back)

    def take_down(self, node: int, seconds: float) -> None:
        """Answer requests to a node with an error for so many seconds, as a cluster does whose slots are not served."""
        self._down[node] = self.loop.now + seconds

    def mute(self, machine: Machine, seconds: float) -> None:
        """Announce nothing to a machine for so many seconds, though its subscription works: a cluster bus is cut."""
        self._muted[machine] = self.loop.now + seconds

    def calm(self) -> None:
        """End the faults of single nodes."""
        self._down.clear()
        self._muted.clear()

    def evict(self, key: LinkKey) -> None:
        """Lose a link, and nothing else."""
        self.core.expire_link(key)

    def lose_all(self) -> None:
        """Lose all links and pods."""
        self.core.lose_all()

    def snapshot(self) -> object:
        """Return a copy of all links and pods."""
        return copy.deepcopy({name: vars(self.core)[name] for name in ("_links", "_pods")})

    def roll_back(self, snapshot: object) -> None:
        """Return to a snapshot: what was acknowledged since is lost."""
        vars(self.core).update(copy.deepcopy(cast("dict[str, Any]", snapshot)))

    # -- requests

    def ask(self, request: Request) -> bytes:
        """Return the line that stands for a request."""
        self._requests[request.number] = request
        return b"%d\n" % request.number

    def answer_of(self, number: int) -> Any:
        """Return the answer that a reply stands for."""
        return self._answers.pop(number)

    def receive(self, connection: Connection, item: Any) -> None:
        """Handle a message that arrives over a connection, now or after a pause."""
        if self.refuses:
            connection.reset()
        elif self._paused_until > self.loop.now or self._inbox:
            self._inbox.append((connection, item))
        else:
            self._handle(connection, item)

    def apply(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Do an operation now, as a script does, and return its answer or its error."""
        return run_now(getattr(self.core, name)(*args, **kwargs))

    def _handle(self, connection: Connection, item: Any) -> None:
        if isinstance(item, int):
            request = self._requests.pop(item)
            if self._is_down(request):
                message = "the node is down"
                answer: Any = StoreUnavailableError(message, operation=request.name, maybe_applied=False)
            else:
                self.before(request)
                answer = self.apply(request.name, *request.args, **request.kwargs)
                self.after(request, answer)
            self._answers[request.number] = answer
            connection.answer(b":%d\r\n" % request.number)
        elif item == "hello":
            connection.answer("welcome")
        elif item == "ping":
            connection.answer(None)
        else:
            self._subscribed[connection] = item[1]
            connection.answer("subscribed")

    def _is_down(self, request: Request) -> bool:
        uids = uids_of(request.name, request.args) if self._down else ()
        return any(self._down.get(node_of(uid, self.nodes), 0.0) > self.loop.now for uid in uids)

    def _announce(self, topic: Topic, event: TopicEvent) -> None:
        if topic.pod_index is None:
            self.seen("announces", None, event)
        for connection, wanted in self._subscribed.items():
            if wanted == topic and self._muted.get(connection.machine, 0.0) <= self.loop.now:
                connection.answer(event)

    def _gone(self, connection: Connection) -> None:
        self._subscribed.pop(connection, None)

    def _come_back(self) -> None:
        self.refuses = False

    def _resume(self, until: float) -> None:
        if until == self._paused_until:
            while self._inbox:
                self._handle(*self._inbox.popleft())


def _ignore(*_: object) -> None:
    """Ignore it: nobody looks."""
