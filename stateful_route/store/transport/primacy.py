"""Proof that a server is the primary still: that it takes writes proves nothing.

A primary that was replaced goes on taking the writes of who is connected to it: for 8 s or more after ``SENTINEL
FAILOVER``, and for ever if somebody promoted a replica by hand and moved a name. Two owners come of it, unless

- a pod counts its lease from a moment after which others said that its primary is the one, and
- nobody ends a life at a primary before he has known it as such for the lease of that life.

Two majorities have a member in common, which changes its mind once. So each proof of the old primary began before the
first one of the new primary ended, and the leases that were counted from it are over when the first life is ended.
"""

from __future__ import annotations

import asyncio
import math
import random
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff

from stateful_route._background.tasks import log_failure
from stateful_route.errors import StoreError, StoreUnavailableError
from stateful_route.store.transport.errors import REDIS_ERRORS, address_of, translate
from stateful_route.store.transport.pipe import connecting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

Node = TypeVar("Node")

Address = tuple[str, int]
"""Host and port."""

PROOF = "primary"
"""How errors call the operation."""

# Seconds after which a server without replicas is asked again whether it has some.
_WITHOUT_REPLICAS = 10.0


class Place(Protocol):
    """A server as its connections know it."""

    async def command(self, *command: str | int) -> Any:
        """Return the reply of a command over a connection that is used for calls."""
        ...

    async def leave(self, stay: Address | None = None) -> None:
        """Use none of the present connections any more, but those to the address to ``stay`` at."""
        ...


class Known:
    """For how long this process knows that a server is the primary."""

    def __init__(self) -> None:
        self.primary: object = None
        self._since = -math.inf

    def proven(self, primary: object) -> float:
        """Take in a proof; return for how many seconds that primary is known, 0 if it is another one now."""
        now = asyncio.get_running_loop().time()
        if primary != self.primary:
            self.primary, self._since = primary, now
        return now - self._since


def not_proven(reason: str) -> StoreUnavailableError:
    """Return the error of who cannot know whether a server is the primary."""
    return StoreUnavailableError(reason, operation=PROOF, maybe_applied=False)


# Sentinel ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Named:
    """The primary that sentinels name, and in which configuration: it rises with each failover."""

    address: Address
    epoch: int
    is_up: bool = attrs.field(eq=False)


@attrs.define(eq=False)
class Sentinels:
    """The sentinels of one service, asked together.

    Attributes:
        service: the name of the primary among those that they watch.
        clients: of redis-py, those that are known.
        patience: seconds in which a majority has to answer.
        find: makes the client of a sentinel that the others name; without it there are no others than ``clients``.
        found: those that it made: who closes the sentinels closes these too.

    """

    service: str
    clients: Sequence[Redis]
    patience: float
    find: Callable[[str, int], Redis] | None = None
    found: dict[Address, Redis] = attrs.field(factory=dict)
    _asked: dict[Redis, asyncio.Task[Any]] = attrs.field(factory=dict)

    async def agreed(self) -> Named:
        """Return what a majority of all sentinels names.

        A sentinel that is slow is not waited for once a majority agrees, nor asked again before it has answered.

        Raises:
            MasterNotFoundError: if no majority agrees in time.

        """
        named: dict[Any, Named] = {}
        errors: list[Exception] = []
        total = 0
        expires = asyncio.get_running_loop().time() + self.patience
        waiting = self._ask([*self.clients, *self.found.values()])
        while waiting and (left := expires - asyncio.get_running_loop().time()) > 0:
            done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if isinstance(task.result(), Exception):
                    errors.append(task.result())
                    continue
                identity, name, others = task.result()
                named[identity] = name
                total = max(total, others + 1)
            votes = list(named.values())
            majority = max(total, len(named)) // 2 + 1
            agreed = next((vote for vote in votes if votes.count(vote) >= majority), None)
            if agreed is not None:
                return attrs.evolve(agreed, is_up=any(vote.is_up for vote in votes if vote == agreed))
            if not waiting and named and len(named) < majority and await self._find():
                waiting = self._ask(list(self.found.values()))
        raise self._not_agreed(len(named), total, errors)

    def _not_agreed(self, answered: int, total: int, errors: list[Exception]) -> MasterNotFoundError:
        kinds = ", ".join(sorted({type(error).__name__ for error in errors}))
        silent = f"; {len(errors)} of the sentinels do not answer: {kinds}" if errors else ""
        agreed = f" that a majority of the sentinels names: {answered} of {total} have answered" if answered else ""
        return MasterNotFoundError(f"no master {self.service!r}{agreed}{silent}")

    def _ask(self, clients: list[Redis]) -> set[asyncio.Task[Any]]:
        for client in clients:
            if client not in self._asked:
                task = self._asked[client] = asyncio.create_task(self._ask_one(client), name="asks a sentinel")
                task.add_done_callback(log_failure)
        return {self._asked[client] for client in clients}

    async def _ask_one(self, client: Redis) -> tuple[Any, Named, int] | Exception:
        """Return who a sentinel is, what it names, and how many others it knows; or why it does not say so."""
        try:
            async with client.pipeline(transaction=False) as pipeline:
                pipeline.execute_command("SENTINEL MASTER", self.service)
                pipeline.execute_command("SENTINEL MYID")
                state, identity = await pipeline.execute(raise_on_error=False)
            if isinstance(state, Exception):
                raise state
            if isinstance(identity, Exception):  # of a release that does not know that command
                identity = address_of(client.connection_pool.connection_kwargs)
            is_up = state["is_master"] and not (state["is_sdown"] or state["is_odown"])
            named = Named((state["ip"], state["port"]), int(state["config-epoch"]), is_up)
            return identity, named, int(state["num-other-sentinels"])
        except (*REDIS_ERRORS, KeyError, TypeError, ValueError) as error:
            return error
        finally:
            del self._asked[client]

    async def _find(self) -> bool:
        """Learn of further sentinels from those that are known; return whether there are any."""
        if self.find is None or self.found:
            return False
        for client in self.clients:
            try:
                others = await client.execute_command("SENTINEL SENTINELS", self.service)
                for other in others:
                    self.found[other["ip"], other["port"]] = self.find(other["ip"], other["port"])
            except (*REDIS_ERRORS, KeyError, TypeError):
                continue
            return bool(self.found)
        return False

    async def aclose(self) -> None:
        """End what is asked, and close the clients that were made here."""
        for task in list(self._asked.values()):
            task.cancel()
        if self._asked:
            await asyncio.wait(list(self._asked.values()))
        for client in self.found.values():
            await client.aclose()


class AgreeingSentinel(Sentinel):
    """A ``Sentinel`` of redis-py that names the primary of a majority: redis-py believes the first that answers."""

    def __init__(self, places: Sequence[Address], service: str, patience: float, settings: Mapping[str, Any]) -> None:
        """Make clients with these ``settings`` of the sentinels at these places, and of those that they lack."""
        bounds = {"socket_timeout": patience, "socket_connect_timeout": patience, "retry": Retry(NoBackoff(), 0)}
        watching = {**settings, **bounds}
        super().__init__(places, sentinel_kwargs=watching)  # type: ignore[no-untyped-call, unused-ignore]  # typed since redis-py 8.2

        def find(host: str, port: int) -> Redis:
            return Redis(host=host, port=port, **watching)

        self.majority = Sentinels(service, self.sentinels, patience, find)

    async def discover_master(self, service_name: str) -> Address:  # noqa: ARG002 - it is that of the majority
        """Return the address of the primary.

        Raises:
            MasterNotFoundError: if no majority names one, or it is down.

        """
        named = await self.majority.agreed()
        if not named.is_up:
            raise MasterNotFoundError(f"no master {self.majority.service!r}: that at {_text(named.address)} is down")
        return named.address

    async def aclose(self) -> None:
        """Close all clients of sentinels."""
        await self.majority.aclose()
        for client in self.sentinels:
            await client.aclose()


class NamedBySentinels:
    """The primary is the one that a majority of the sentinels names."""

    def __init__(self, watchers: AgreeingSentinel) -> None:
        """Ask the sentinels, which name the primary to new connections too."""
        self._watchers = watchers
        self._known = Known()

    async def prove(self, place: Place) -> float:
        """See ``Connections.prove``; a connection to another server is left, and the next one goes to this one."""
        try:
            named = await self._watchers.majority.agreed()
        except MasterNotFoundError as error:
            raise translate(error, PROOF, sent=False, writes=False) from error
        await place.leave(named.address)
        return self._known.proven(named)


def _text(address: Address) -> str:
    return f"{address[0]}:{address[1]}"


# One name ------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Replication:
    """What a server says of itself: which history of writes it has, and who follows it."""

    history: str
    is_replica: bool
    replicas: int


def read_replication(text: bytes) -> Replication | None:
    """Read the answer to ``INFO replication``; ``None`` if it says nothing of histories."""
    lines = (line.partition(":") for line in text.decode(errors="replace").split())
    facts = {name: value for name, _, value in lines}
    replicas = facts.get("connected_slaves", "")
    if "master_replid" not in facts or not replicas.isdecimal():
        return None
    return Replication(facts["master_replid"], facts.get("role") == "slave", int(replicas))


class LedToByName:
    """The primary is the server to which a new connection leads: a name, or an address, may move to a replica of it.

    A server that never had a replica is not asked: nothing can take its place with its data.
    """

    def __init__(self, kind: Any, settings: dict[str, Any], deadline: float) -> None:
        """Know nothing of the server to which a connection of redis-py of that ``kind`` leads."""
        self._kind, self._deadline = kind, deadline
        self._settings = settings
        self._known = Known()
        self._has_replicas = False
        self._ask_at = -math.inf

    async def prove(self, place: Place) -> float:
        """See ``Connections.prove``."""
        loop = asyncio.get_running_loop()
        if not self._has_replicas and loop.time() < self._ask_at:
            return math.inf
        try:
            ours = read_replication(await place.command("INFO", "replication"))
        except StoreError as error:
            if not error.refused:
                raise
            ours = None  # it has no such command, or the user no right to it
        self._has_replicas = ours is not None and (self._has_replicas or ours.replicas > 0)
        if ours is None or not self._has_replicas:
            self._ask_at = loop.time() + _WITHOUT_REPLICAS
            return math.inf
        theirs = await self._ask_anew()
        if theirs is None or theirs.history != ours.history or theirs.is_replica:
            await place.leave()
            raise not_proven(f"{address_of(self._settings)} leads to another server than before, or to a replica")
        if self._known.primary not in {None, ours.history}:
            await place.leave()  # one of the connections may be to the server before
        return self._known.proven(ours.history)

    async def _ask_anew(self) -> Replication | None:
        connection = self._kind(**self._settings)
        async with connecting(PROOF, self._deadline, address_of(self._settings)):
            try:
                await connection.connect()
                await connection.send_command("INFO", "replication")
                return read_replication(await connection.read_response(disable_decoding=True))
            finally:
                await connection.disconnect(nowait=True)


class NoOther:
    """Nothing can take the place of a server, as far as anybody can know."""

    async def prove(self, place: Place) -> float:  # noqa: ARG002 - as the others have it
        """See ``Connections.prove``."""
        return math.inf


def primacy_of(kind: Any, settings: dict[str, Any], deadline: float) -> Proof:
    """Return how to prove that the server is the primary to which connections with these settings lead."""
    if "connection_pool" in settings:
        return NamedBySentinels(settings["connection_pool"].sentinel_manager)
    return NoOther() if settings.get("path") else LedToByName(kind, settings, deadline)


class Proof(Protocol):
    """A way to prove that a server is the primary."""

    def prove(self, place: Place) -> Awaitable[float]:
        """See ``Connections.prove``."""
        ...


# Cluster -------------------------------------------------------------------------------------------------------------


async def count_votes(others: Sequence[Node], names_it: Callable[[Node], Awaitable[bool]], deadline: float) -> None:
    """Return once a majority of the primaries, which are ``others`` and the one in question, names that one.

    As many are asked as are needed, any of them; all of them after a quarter of the ``deadline``, in seconds.

    Raises:
        StoreUnavailableError: if no majority does within the deadline.

    """
    loop = asyncio.get_running_loop()
    began = loop.time()
    voters = len(others) + 1
    votes = 1  # its own: it answers the call for which this is asked
    left = random.sample(others, len(others))
    waiting: set[asyncio.Future[bool]] = set()
    try:
        while votes <= voters // 2 and (left or waiting) and (passed := loop.time() - began) < deadline:
            is_late = passed >= deadline / 4
            while left and (is_late or len(waiting) + votes <= voters // 2):
                waiting.add(asyncio.ensure_future(names_it(left.pop())))
            until = deadline if is_late else deadline / 4
            done, waiting = await asyncio.wait(waiting, timeout=until - passed, return_when=asyncio.FIRST_COMPLETED)
            votes += sum(task.result() for task in done)
    finally:
        for task in waiting:
            task.cancel()
        if waiting:  # redis-py may connect once more after a cancel: not when its client is closed already
            await asyncio.wait(waiting, timeout=deadline)
    if votes <= voters // 2:
        raise not_proven(f"{votes} of {voters} primaries of the cluster name the one that has the key")
