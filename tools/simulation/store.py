"""The store that a simulated machine has: the shipped pipe over a simulated wire.

``Pipe`` and ``Wire`` of ``store.transport`` are the real ones: deadlines, retired connections and back-off are theirs.
Only the socket, and what is written to it, is simulated: a line with the number of a request, and the number of its
answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Self, cast

import attrs

from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.store.transport.pipe import Pipe
from stateful_route.testing.memory.store import MemoryStore
from tools.simulation.loop import SimulationError
from tools.simulation.server import Request, node_of, uids_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from stateful_route.links import Link, LinkChange, TopicEvent
    from stateful_route.pods import Topic
    from tools.simulation.loop import Machine
    from tools.simulation.network import Network
    from tools.simulation.server import StoreServer

READS = frozenset({"get_link", "get_links", "get_services", "history", "read_pods", "info"})

_NOTED: ContextVar[list[Request] | None] = ContextVar("_NOTED", default=None)


@contextlib.contextmanager
def noting_requests() -> Iterator[list[Request]]:
    """Note the requests of a call, from its own task or from those that it begins."""
    noted: list[Request] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


@attrs.frozen
class _Operation:
    """An operation, for the errors of the pipe."""

    name: str
    writes: bool


@functools.cache
def _operation(name: str) -> _Operation:
    return _Operation(name, name not in READS)


class _Socket:
    """What the pipe takes for a connection of redis-py, for its stream, and for the transport of that."""

    def __init__(self, *, store: SimulatedStore, kind: str, **_: object) -> None:
        self._store = store
        self._kind = kind
        self._reader = self._writer = self
        self._protocol: Any = None
        self._lost = False

    async def connect(self) -> None:
        store = self._store
        self._connection = store.network.connect(store.machine, self._kind, store.server.receive)
        self._connection.to_machine = self._receive
        self._connection.lost = self._lose
        self._welcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connection.send("hello")
        await self._welcome

    async def disconnect(self, *, nowait: bool) -> None:
        del nowait
        self._connection.close()

    @property
    def transport(self) -> Self:
        return self

    def is_closing(self) -> bool:
        return self._lost

    at_eof = is_closing

    def set_protocol(self, protocol: object) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        for line in data.split(b"\n")[:-1]:
            self._connection.send(int(line))

    def abort(self) -> None:
        if not self._lost:
            self._lost = True
            self._connection.close()
            self._connection.machine.call(self._protocol.connection_lost, None)

    def _receive(self, item: Any) -> None:
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
            Pipe(_Socket, {"store": self, "kind": kind, "host": "store", "port": 0}, deadline, 10_000) for kind in kinds
        ]

    def __getattr__(self, name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Return an operation of the store."""
        if name.startswith("_") or not hasattr(MemoryStore, name):
            raise AttributeError(name)
        call = vars(self)[name] = functools.partial(self._call, name)
        return call

    async def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        request = self._request(name, args, kwargs)
        pipe = self.pipes[self._node(request)]
        answer = self.server.answer_of(await pipe.submit(self.server.ask(request), _operation(name)))
        self.server.seen("answered", request, answer)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    def _request(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Request:
        loop = self.network.loop
        if len(self.pipes) > 1:  # pods and links are on many servers
            kwargs.pop("born", None)
        request = Request(loop.next_number(), self.machine, name, args, kwargs, loop.now)
        noted = _NOTED.get()
        if noted is not None:
            request.chosen = True
            noted.append(request)
        self.server.seen("asks", request, None)
        return request

    def _node(self, request: Request) -> int:
        uids = uids_of(request.name, request.args)
        return node_of(uids[0], len(self.pipes)) if uids else 0

    async def get_links(self, namespace: str, uids: Sequence[str], service_name: str) -> list[Link | StoreError | None]:
        """Return the link, ``None`` or the error of each uid: one request each, as on a server."""
        return await self._each("get_links", [(namespace, [uid], service_name) for uid in uids], {})

    @property
    def places_together(self) -> bool:
        """Whether the links lie on one server."""
        return len(self.pipes) == 1

    async def place_links(
        self, namespace: str, candidates: Sequence[tuple[str, Any]], service_name: str, ttl: float, **named: Any
    ) -> list[LinkChange | StoreError]:
        """Place many uids: one script each."""
        return await self._each("place_links", [(namespace, [each], service_name, ttl) for each in candidates], named)

    async def _each(self, name: str, calls: list[tuple[Any, ...]], named: dict[str, Any]) -> list[Any]:
        if not calls:
            return []
        requests = [self._request(name, args, dict(named)) for args in calls]
        by_node: dict[int, list[Request]] = {}
        for request in requests:
            by_node.setdefault(self._node(request), []).append(request)
        answers: dict[int, Any] = {}
        work = [self._ask_node(node, asked, answers) for node, asked in by_node.items()]
        await (work[0] if len(work) == 1 else asyncio.gather(*work))
        return [answers[request.number] for request in requests]

    async def _ask_node(self, node: int, requests: list[Request], answers: dict[int, Any]) -> None:
        """Put the answer to each request under its number."""
        data = b"".join(map(self.server.ask, requests))
        try:
            replies = await self.pipes[node].submit(data, _operation(requests[0].name), count=len(requests))
        except StoreError as error:
            answers.update((request.number, error) for request in requests)
            return
        for request, reply in zip(requests, [replies] if len(requests) == 1 else replies, strict=True):
            answer = reply if isinstance(reply, StoreError) else self.server.answer_of(reply)
            answers[request.number] = answer = answer if isinstance(answer, StoreError) else answer[0]
            self.server.seen("answered", request, answer)

    def listen(self, topic: Topic, patience: float) -> AbstractAsyncContextManager[AsyncIterator[TopicEvent | None]]:
        """Subscribe to what the clients of a service, or one of its pods, are told."""
        return _Subscription(self, topic, patience)

    async def aclose(self) -> None:
        """Close the connections."""
        for pipe in self.pipes:
            await pipe.aclose()


class _Subscription:
    """A connection of its own that hears events, and finds out when it is deaf."""

    def __init__(self, store: SimulatedStore, topic: Topic, patience: float) -> None:
        self._deadline = store.deadline
        self._patience = patience
        self._heard: deque[Any] = deque()
        self._more: asyncio.Future[None] | None = None
        self._lost = False
        self._connection = store.network.connect(store.machine, "subscription", store.server.receive)
        self._connection.to_machine = self._receive
        self._connection.lost = self._lose
        self._connection.send("hello")
        self._connection.send(("subscribe", topic))

    async def __aenter__(self) -> Self:
        try:
            await self._expect("welcome")
            await self._expect("subscribed")
        except BaseException:
            self._connection.close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TopicEvent | None:
        if not await self._wait(self._patience):
            self._connection.send("ping")
            if not await self._wait(self._patience):
                raise _deaf("nothing is heard any more")
        return cast("TopicEvent | None", self._heard.popleft())

    async def _expect(self, answer: str) -> None:
        if not await self._wait(self._deadline):
            raise _deaf("no answer in time")
        if self._heard.popleft() != answer:
            raise SimulationError(f"the store did not say {answer!r}")

    async def _wait(self, seconds: float) -> bool:
        """Return whether something is there; wait for it for so long."""
        if not self._heard and not self._lost:
            self._more = asyncio.get_running_loop().create_future()
            try:
                async with asyncio.timeout(seconds):
                    await self._more
            except TimeoutError:
                pass
            finally:
                self._more = None
        if self._lost and not self._heard:
            raise _deaf("the connection was lost")
        return bool(self._heard)

    def _receive(self, item: Any) -> None:
        self._heard.append(item)
        self._wake()

    def _lose(self) -> None:
        self._lost = True
        self._wake()

    def _wake(self) -> None:
        if self._more is not None and not self._more.done():
            self._more.set_result(None)


def _deaf(why: str) -> StoreUnavailableError:
    return StoreUnavailableError(why, operation="listen", maybe_applied=False)
