"""A memory store behind the network, and the store that a machine has: the shipped pipe over a simulated wire.

``Pipe`` and ``Wire`` of ``store.transport`` are the real ones: deadlines, retired connections and back-off are theirs.
Only the socket, and what is written to it, is simulated: a line with the number of a request, and the number of its
answer. Each request is applied at once when it arrives, as a script is.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import zlib
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, cast

import attrs

from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.models import LinkKey
from stateful_route.store.transport.pipe import Pipe
from stateful_route.testing.memory.store import MemoryStore
from stateful_route.testing.simulation.loop import SimulationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from stateful_route.models import Announcement, Link, LinkChange, Topic
    from stateful_route.testing.simulation.loop import Machine
    from stateful_route.testing.simulation.network import Connection, Network

READS = frozenset({"get_link", "get_links", "get_services", "read_pods", "info"})


_NOTED: ContextVar[list[Request] | None] = ContextVar("_NOTED", default=None)


@contextlib.contextmanager
def noting_requests() -> Iterator[list[Request]]:
    """Note what the store is asked for by a call, in its own task or in those that it begins."""
    noted: list[Request] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def uids_of(name: str, args: tuple[Any, ...]) -> list[str]:
    """Return the uids that an operation is about."""
    if name == "place_links":
        return [uid for uid, _ in args[1]]
    if name == "get_links":
        return list(args[1])
    return [args[0].uid] if args and isinstance(args[0], LinkKey) else []


def node_of(uid: str, nodes: int) -> int:
    """Return which node of a cluster has a link: never the first one, if there are more, for that one has the pods."""
    return 1 + zlib.crc32(uid.encode()) % (nodes - 1) if nodes > 1 else 0


class InstantStore(MemoryStore):
    """A memory store whose operations do not wait for anything; what it announces goes to ``announce``."""

    announce: Callable[[Topic, Announcement], object] | None = None

    async def _gate(self, name: str, *, after: bool) -> None:
        """Let it pass: the network does the waiting."""

    def _announce(self, topic: Topic, announcement: Announcement) -> None:
        if self.announce is not None:
            self.announce(topic, announcement)


@attrs.define(eq=False)
class Request:
    """An operation that a machine asks for."""

    number: int
    machine: Machine
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    asked_at: float
    chosen: bool = False
    """Whether it is about a pod that the application has chosen."""


class StoreServer:
    """The store as the network sees it: it applies requests in the order of their arrival, if it is there."""

    def __init__(self, network: Network, *, start: float = 1_800_000_000.0) -> None:
        """Begin empty, with a clock that shows ``start``."""
        self.network = network
        self.loop = network.loop
        self.offset = start - self.loop.now
        self.core = InstantStore(self.clock)
        self.core.announce = self._announce
        self.refuses = False
        """Whether connections are refused: the process is not there."""
        self.seen: Callable[[str, Request | None, Any], object] = _unseen
        """Called with what arrives, is applied or is announced."""
        self.before: Callable[[Request], object] = _unseen_request
        self.after: Callable[[Request, Any], object] = _unseen_answer
        self._subscribed: dict[Connection, Topic] = {}
        self._paused_until = 0.0
        self._inbox: deque[tuple[Connection, Any]] = deque()
        self._requests: dict[int, Request] = {}
        self._answers: dict[int, Any] = {}
        self.nodes = 1
        """How many nodes it has; each machine has a connection to each. They forget and stop together."""
        self._down: dict[int, float] = {}
        self._muted: dict[Machine, float] = {}
        network.gone = self._gone

    def clock(self) -> float:
        """Return the seconds since 1970 by the clock of the store."""
        return self.loop.now + self.offset

    # -- what goes wrong

    def pause(self, seconds: float) -> None:
        """Do nothing for so long; what comes in waits."""
        until = self.loop.now + seconds
        if until > self._paused_until:
            self._paused_until = until
            self.loop.at(until, self._resume, until)

    def restart(self, away: float) -> None:
        """Break all connections, and refuse new ones for so long."""
        self.refuses = True
        self._inbox.clear()
        for connection in tuple(self.network.connections):
            connection.reset()
        self.loop.after(away, self._come_back)

    def take_down(self, node: int, seconds: float) -> None:
        """Answer what is asked of a node with an error for so long, as a cluster does whose slots are not served."""
        self._down[node] = self.loop.now + seconds

    def mute(self, machine: Machine, seconds: float) -> None:
        """Tell a machine nothing for so long, over a subscription that works: the bus of a cluster is cut."""
        self._muted[machine] = self.loop.now + seconds

    def evict(self, key: LinkKey) -> None:
        """Lose a link, and nothing else."""
        self.core.expire_link(key)

    def calm(self) -> None:
        """Be a store of which all nodes work from now on."""
        self._down.clear()
        self._muted.clear()

    def lose_all(self) -> None:
        """Lose all links and pods."""
        self.core.lose_all()

    def snapshot(self) -> object:
        """Return what there is now."""
        return copy.deepcopy({name: vars(self.core)[name] for name in _KEPT if name in vars(self.core)})

    def roll_back(self, snapshot: object) -> None:
        """Be again as at a snapshot: what was acknowledged since is lost."""
        vars(self.core).update(copy.deepcopy(cast("dict[str, Any]", snapshot)))

    # -- what it does

    def ask(self, request: Request) -> bytes:
        """Return the line that stands for a request."""
        self._requests[request.number] = request
        return b"%d\n" % request.number

    def answer_of(self, number: int) -> Any:
        """Return the answer that a reply stands for."""
        return self._answers.pop(number)

    def receive(self, connection: Connection, item: Any) -> None:
        """Take what arrives over a connection."""
        if self.refuses:
            connection.reset()
        elif self._paused_until > self.loop.now or self._inbox:
            self._inbox.append((connection, item))
        else:
            self._handle(connection, item)

    def apply(self, name: str, *args: Any, **kwargs: Any) -> Any:
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

    def _announce(self, topic: Topic, announcement: Announcement) -> None:
        if topic.pod_index is None:
            self.seen("announces", None, announcement)
        for connection, wanted in self._subscribed.items():
            if wanted == topic and self._muted.get(connection.machine, 0.0) <= self.loop.now:
                connection.answer(announcement)

    def _gone(self, connection: Connection) -> None:
        self._subscribed.pop(connection, None)

    def _come_back(self) -> None:
        self.refuses = False

    def _resume(self, until: float) -> None:
        if until == self._paused_until:
            while self._inbox:
                self._handle(*self._inbox.popleft())


_KEPT = ("_links", "_pods")


def _unseen(kind: str, request: Request | None, value: Any) -> None:
    """Nobody looks."""


def _unseen_request(request: Request) -> None:
    """Nobody looks."""


def _unseen_answer(request: Request, answer: Any) -> None:
    """Nobody looks."""


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


@attrs.frozen
class _Named:
    """An operation, for the errors of the pipe."""

    name: str
    writes: bool


_OPERATIONS: dict[str, _Named] = {}


def _operation(name: str) -> _Named:
    known = _OPERATIONS.get(name)
    if known is None:
        known = _OPERATIONS[name] = _Named(name, name not in READS)
    return known


class _Dial:
    """What the pipe takes for a connection of redis-py: it leaves a stream when it has connected."""

    def __init__(self, *, store: SimulatedStore, kind: str, **_: object) -> None:
        self._store = store
        self._kind = kind
        self._reader: Any = None
        self._writer: Any = None

    async def connect(self) -> None:
        transport = _Transport(self._store, self._kind)
        self._reader = transport
        self._writer = transport
        await transport.shake_hands()

    async def disconnect(self, *, nowait: bool) -> None:
        del nowait
        if self._writer is not None:
            self._writer.connection.close()


class _Transport:
    """The socket of the pipe: stream, writer and transport in one."""

    def __init__(self, store: SimulatedStore, kind: str) -> None:
        self._protocol: Any = None
        self._lost = False
        self.connection = store.network.connect(store.machine, kind, store.server.receive)
        self.connection.to_machine = self._come
        self.connection.lost = self._lose
        self._welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def transport(self) -> Self:
        return self

    async def shake_hands(self) -> None:
        self.connection.send("hello")
        await self._welcome

    def at_eof(self) -> bool:
        return self._lost

    def is_closing(self) -> bool:
        return self._lost

    def set_protocol(self, protocol: object) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        for line in data.split(b"\n")[:-1]:
            self.connection.send(int(line))

    def abort(self) -> None:
        if not self._lost:
            self._lost = True
            self.connection.close()
            self.connection.machine.call(self._protocol.connection_lost, None)

    def _come(self, item: Any) -> None:
        if item == "welcome":
            if not self._welcome.done():
                self._welcome.set_result(None)
        elif not self._lost:
            self._protocol.data_received(item)

    def _lose(self) -> None:
        if self._lost:
            return
        self._lost = True
        error = ConnectionResetError("the connection was reset")
        if self._protocol is not None:
            self._protocol.connection_lost(error)
        elif not self._welcome.done():
            self._welcome.set_exception(error)


class SimulatedStore:
    """The ``Store`` of one simulated machine."""

    def __init__(self, network: Network, server: StoreServer, machine: Machine, deadline: float) -> None:
        """Reach the store over the network; each call ends within ``deadline`` seconds."""
        self.network = network
        self.server = server
        self.machine = machine
        self.deadline = deadline
        kinds = [f"pipe{node}" for node in range(server.nodes)] if server.nodes > 1 else ["pipe"]
        self.pipes = [
            Pipe(_Dial, {"store": self, "kind": kind, "host": "store", "port": 0}, deadline, 10_000) for kind in kinds
        ]

    def _pipe(self, request: Request) -> Pipe:
        uids = uids_of(request.name, request.args)
        return self.pipes[node_of(uids[0], len(self.pipes)) if uids else 0]

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return an operation of the store."""
        if name.startswith("_") or not hasattr(MemoryStore, name):
            raise AttributeError(name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._call(name, args, kwargs)

        vars(self)[name] = call
        return call

    async def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        request = self._request(name, args, kwargs)
        answer = self.server.answer_of(await self._pipe(request).submit(self.server.ask(request), _operation(name)))
        self.server.seen("answered", request, answer)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def _request(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        loop = self.network.loop
        request = Request(loop.next_number(), self.machine, name, args, kwargs, loop.now)
        noted = _NOTED.get()
        if noted is not None:
            request.chosen = True
            noted.append(request)
        self.server.seen("asks", request, None)
        return request

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """Return the link, ``None`` or the error of each uid: one question each, as it is on a server."""
        return await self._each("get_links", [(namespace, [uid], service_name) for uid in uids], {})

    async def place_links(
        self,
        namespace: str,
        candidates: Sequence[tuple[str, Any]],
        service_name: str,
        ttl: float,
        **named: Any,
    ) -> list[LinkChange | StoreError]:
        """Place many uids: one script each."""
        return await self._each("place_links", [(namespace, [each], service_name, ttl) for each in candidates], named)

    async def _each(self, name: str, calls: list[tuple[Any, ...]], named: dict[str, Any]) -> list[Any]:
        if not calls:
            return []
        requests = [self._request(name, args, dict(named)) for args in calls]
        by_pipe: dict[int, list[Request]] = {}
        for request in requests:
            by_pipe.setdefault(self.pipes.index(self._pipe(request)), []).append(request)
        work = [self._each_over(self.pipes[number], of_it) for number, of_it in by_pipe.items()]
        parts = [await work[0]] if len(work) == 1 else await asyncio.gather(*work)
        found = {
            request.number: answer
            for of_it, part in zip(by_pipe.values(), parts, strict=True)
            for request, answer in zip(of_it, part, strict=True)
        }
        return [found[request.number] for request in requests]

    async def _each_over(self, pipe: Pipe, requests: list[Request]) -> list[Any]:
        data = b"".join(map(self.server.ask, requests))
        try:
            replies = await pipe.submit(data, _operation(requests[0].name), count=len(requests))
        except StoreError as error:
            return [error] * len(requests)
        if len(requests) == 1:
            replies = [replies]
        answers = [self._of_one(reply) for reply in replies]
        for request, answer in zip(requests, answers, strict=True):
            self.server.seen("answered", request, answer)
        return answers

    def _of_one(self, reply: Any) -> Any:
        answer = reply if isinstance(reply, StoreError) else self.server.answer_of(reply)
        return answer if isinstance(answer, StoreError) else answer[0]

    def listen(self, topic: Topic, patience: float) -> AbstractAsyncContextManager[AsyncIterator[Announcement | None]]:
        """Subscribe to what the clients of a service, or one of its pods, are told."""
        return _Subscription(self, topic, patience)

    async def aclose(self) -> None:
        """Close the connections."""
        for pipe in self.pipes:
            await pipe.aclose()


class _Subscription:
    """A connection of its own that hears announcements, and finds out when it is deaf."""

    def __init__(self, store: SimulatedStore, topic: Topic, patience: float) -> None:
        self._store = store
        self._topic = topic
        self._patience = patience
        self._connection: Connection | None = None
        self._heard: deque[Any] = deque()
        self._more: asyncio.Future[None] | None = None
        self._asked = False
        self._lost = False

    async def __aenter__(self) -> Self:
        store = self._store
        self._connection = store.network.connect(store.machine, "subscription", store.server.receive)
        self._connection.to_machine = self._come
        self._connection.lost = self._lose
        self._connection.send("hello")
        self._connection.send(("subscribe", self._topic))
        try:
            await self._next(store.deadline, "welcome")
            await self._next(store.deadline, "subscribed")
        except BaseException:
            self._connection.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._connection is not None:
            self._connection.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Announcement | None:
        while True:
            if await self._wait(self._patience):
                self._asked = False
                return cast("Announcement | None", self._heard.popleft())
            if self._asked:
                raise self._deaf("nothing is heard any more")
            self._asked = True
            if self._connection is not None:
                self._connection.send("ping")

    async def _next(self, deadline: float, expected: str) -> None:
        if not await self._wait(deadline):
            raise self._deaf("no answer in time")
        if self._heard.popleft() != expected:
            raise SimulationError(f"the store did not say {expected!r}")

    async def _wait(self, seconds: float) -> bool:
        """Return whether something is there; wait for it for so long."""
        if self._heard:
            return True
        if self._lost:
            raise self._deaf("the connection was lost")
        self._more = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._more
        except TimeoutError:
            if not self._heard and not self._lost:
                return False
        finally:
            self._more = None
        if not self._heard:
            raise self._deaf("the connection was lost")
        return True

    def _come(self, item: Any) -> None:
        self._heard.append(item)
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    def _lose(self) -> None:
        self._lost = True
        if self._more is not None and not self._more.done():
            self._more.set_result(None)

    @staticmethod
    def _deaf(why: str) -> StoreUnavailableError:
        return StoreUnavailableError(why, operation="listen", maybe_applied=False)
