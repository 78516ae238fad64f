"""The composition root: opens the store, hands out the drivers, and closes all of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Self, TypeVar

from stateful_route._background.tasks import outlast
from stateful_route._instrumented_store import instrumented
from stateful_route._lifecycle import Driver
from stateful_route._log import log
from stateful_route.client.driver import ClientDriver
from stateful_route.config import BaseConfig, warn_of_unread_variables
from stateful_route.errors import LifecycleError, StoreError, of_a_question
from stateful_route.instrumentation import teller_of
from stateful_route.lives import check_life
from stateful_route.ops.operator import Operator
from stateful_route.server.driver import ServerDriver
from stateful_route.server.parcels import MAX_STATE
from stateful_route.statistics import StoreStatistics
from stateful_route.store.redis.store import RedisStore
from stateful_route.store.transport.topology import Limits, check_client, check_url, open_client, open_url
from stateful_route.store.transport.url import shown

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from stateful_route.client.placement.strategies import PlacementStrategy
    from stateful_route.lives import Life
    from stateful_route.load import LoadSource
    from stateful_route.pods import ServerInfo
    from stateful_route.server.departure.hand_over import HandOff
    from stateful_route.server.departure.rebalance import Movable
    from stateful_route.server.parcels import Adopt, StateCarrier
    from stateful_route.store.protocol import Store, StoreInfo
    from stateful_route.store.transport.topology import RedisClient

D = TypeVar("D", bound=Driver)


class StatefulRoute:
    """Gives out server and client drivers that share one store; an async context manager.

    ``StatefulRoute(redis_client, config)`` connects to where an asyncio client of redis-py does (to one server, to the
    primary of Sentinel, or to a cluster), by its settings; ``StatefulRoute.from_url(url, config)`` to what a URL names.
    """

    def __init__(
        self, redis_client: RedisClient | str, config: BaseConfig | None = None, *, instrumentation: object = None
    ) -> None:
        """Take a client whose settings are read, or the URL of a store to open.

        ``instrumentation`` is told what happens in the drivers, and of each call to the store: an object with any of
        the methods of ``Instrumentation``.

        Raises:
            ConfigError: if it is neither, or no store can be opened from such a URL or such a client.
            InvalidArgumentError: if ``instrumentation`` has none of those methods.

        """
        self._source = redis_client
        self._config = BaseConfig() if config is None else config
        self._store: Store | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drivers: list[Driver] = []
        self._teller = teller_of(instrumentation)
        self._in_flight: Callable[[], int] = int
        self._evicts: bool | None = None
        self._lacks: StoreError | None = None
        """What is refused to the user of the server that the settings need."""
        if isinstance(redis_client, str):
            check_url(redis_client)
        else:
            check_client(redis_client)

    @classmethod
    def from_url(cls, url: str, config: BaseConfig | None = None, *, instrumentation: object = None) -> Self:
        """Take the URL of a store, which is opened when the object is entered. docs/settings.md lists the URLs.

        Raises:
            ConfigError: if no store can be opened from such a URL.
            InvalidArgumentError: if ``instrumentation`` has none of the methods of ``Instrumentation``.

        """
        check_url(url)
        return cls(url, config, instrumentation=instrumentation)

    def __repr__(self) -> str:
        return f"<StatefulRoute: {'closed' if self._store is None else repr(self._store)}>"

    async def open(self) -> None:
        """Open the store; ``async with`` does it. A server that is away is no error here: the calls will say so.

        The server is asked for what it is, and with the setting ``history`` or ``durable`` whether the user has the
        rights for that: if not, ``server()`` and ``client()`` say so.

        Raises:
            ConfigError: if the URL cannot be read, or the server to embed is not to be found.
            LifecycleError: if it is open.

        """
        if self._store is not None:
            raise LifecycleError(f"{self!r} is open already")
        self._loop = asyncio.get_running_loop()
        warn_of_unread_variables()
        config = self._config
        durable = config.call_deadline_seconds if config.durable else None
        source, limits = self._source, Limits(config.call_deadline_seconds, config.max_pending)
        connections = await open_url(source, limits) if isinstance(source, str) else open_client(source, limits)
        store = RedisStore(connections, durable_within=durable, history=config.history)
        self._in_flight = store.in_flight
        self._store = store if self._teller is None else instrumented(store, self._teller)
        try:
            info, self._lacks = await asyncio.gather(  # over one connection, in one round trip
                _warn_of_settings(self._store, durable=config.durable), store.lacking()
            )
            self._evicts = None if info is None or info.eviction_policy is None else info.may_evict_links
        except BaseException:
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Stop the drivers that still run, and close what was opened. Safe to call twice."""
        drivers, self._drivers = self._drivers, []
        store, self._store = self._store, None
        if store is not None:
            await outlast(asyncio.ensure_future(_close(drivers, store)))

    async def __aenter__(self) -> Self:
        """Open the store."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store."""
        await self.aclose()

    def server(
        self,
        server_info: ServerInfo | None = None,
        *,
        load_source: LoadSource | None = None,
        hand_off: HandOff | None = None,
        movable: Movable | None = None,
        adopt: Adopt | None = None,
        carrier: StateCarrier | None = None,
        max_state: int = MAX_STATE,
    ) -> ServerDriver:
        """Return a server driver for that pod, by default for the one that the config names; not started yet.

        Args:
            server_info: the pod.
            load_source: says how loaded the pod is, by default by its links.
            hand_off: called with each uid, and awaited, before it is released, when the pod drains or lets links go: 64
                at a time, once each. A plain function has to be quick, as the event loop stands still meanwhile.
            movable: names uids that may go to another pod, for the setting ``rebalance``.
            adopt: called with a uid, the bytes that ``hand_off`` has returned in another pod, and the epoch at which
                this pod will own the uid: before it does. With it states travel.
            carrier: carries them from pod to pod; one for each driver.
            max_state: how many bytes a state may have to travel; more are not sent, and the uid is released.

        Raises:
            InvalidArgumentError: if ``load_source``, ``hand_off``, ``movable`` or ``adopt`` cannot be called as they
                are; if ``max_state`` is no int from 0.
            ConfigError: if no pod is given and the config does not name one; if CPU is to be measured without psutil;
                if ``rebalance`` is set and there is no ``movable``; if ``adopt`` is given without ``hand_off`` or
                ``carrier``; or if ``call_deadline`` is above half of the lease.
            LifecycleError: if the store is not open.
            StoreUnavailableError: if the user lacks a right that the setting ``history`` or ``durable`` needs: each new
                uid would be refused. It was tried when the route was opened.

        """
        self._check_rights()
        server_info = server_info or self._config.server_info()
        return self._keep(
            ServerDriver(
                self.store,
                server_info,
                self._config,
                load_source=load_source,
                hand_off=hand_off,
                movable=movable,
                adopt=adopt,
                carrier=carrier,
                max_state=max_state,
                instrumentation=self._teller,
            )
        )

    def client(self, *, strategy: PlacementStrategy | None = None) -> ClientDriver:
        """Return a client driver; not started yet. ``strategy`` chooses the pod of a new uid.

        Raises:
            InvalidArgumentError: if ``strategy`` cannot be called.
            LifecycleError: if the store is not open.
            StoreUnavailableError: if the user lacks a right that the setting ``history`` or ``durable`` needs.

        """
        self._check_rights()
        return self._keep(ClientDriver(self.store, self._config, strategy=strategy))

    def operator(self) -> Operator:
        """Return what answers the questions of operators, and does what they order. It needs no start and no stop.

        Raises:
            InvalidArgumentError: if the store is one of your own without the methods of ``OperatorStore``.
            LifecycleError: if the store is not open.

        """
        return Operator(self.store, self._config)

    async def end_life(self, life: Life) -> bool:
        """End a life of a pod, of which it is proven that its process is gone; return whether it has ended.

        Its uids are taken over as soon as clients hear of it, instead of once its lease has ended. No other life of the
        pod is ended with it, and it is safe to say so again, or late. ``False`` if an older life of the pod may still
        own, or the entry of the pod cannot be read: ask again, or leave it to the lease.

        Be sure. A process that lives, and hears a moment later that its life is over, is one of two owners until then.

        Raises:
            InvalidArgumentError: if ``life`` is not a ``Life``.
            StoreError: if the store did not answer; then it may have ended.
            LifecycleError: if the store is not open.

        """
        check_life("life", life)
        retention = self._config.retention_seconds
        return await self.store.end_life(life.namespace, life.service_name, life.of_pod, retention)

    def statistics(self) -> StoreStatistics:
        """Return how the connections to the store are.

        Raises:
            LifecycleError: if the store is not open.

        """
        return StoreStatistics(in_flight=self._in_flight() if self.store else 0, evicts=self._evicts)

    @property
    def store(self) -> Store:
        """The store.

        Raises:
            LifecycleError: if it is not open.

        """
        if self._store is None:
            raise LifecycleError(f"{self!r}: call open(), or use it inside 'async with'")
        return self._store

    def _check_rights(self) -> None:
        """Refuse to begin what could not place one uid; an operator may look all the same."""
        if self._store is not None and self._lacks is not None:
            raise self._lacks

    def _keep(self, driver: D) -> D:
        """Note a driver that has to be stopped in the end; those that were stopped are forgotten."""
        driver.home = self._loop
        self._drivers = [kept for kept in self._drivers if not kept.stopped]
        self._drivers.append(driver)
        return driver


def shown_source(redis_client: RedisClient | str) -> str:
    """Return what a store is opened from, for people: a URL without user, password and query; or the kind of client."""
    if isinstance(redis_client, str):
        return shown(redis_client)
    return f"a {type(redis_client).__name__} of {type(redis_client).__module__.partition('.')[0]}"


async def _close(drivers: list[Driver], store: Store) -> None:
    """Stop the drivers, the last one first, and close the store, whatever goes wrong with the others."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.aclose)
        for driver in drivers:
            stack.push_async_callback(driver.stop)


async def _warn_of_settings(store: Store, *, durable: bool) -> StoreInfo | None:
    """Say so if the server may delete links by itself, or has no replica that could be waited for; return what it says.

    That it cannot be asked is no reason to fail.
    """
    try:
        info = await store.info()
    except StoreError as error:
        level = logging.WARNING if error.refused else logging.DEBUG  # of one that is away the calls will say so
        text = "Redis cannot be asked for its settings: %(error)s"
        log.log(level, "store_settings_unknown", text, error=of_a_question(error))
        return None
    if info.may_evict_links:
        log.warning(
            "store_may_evict",
            "%(product)s has maxmemory-policy %(policy)r: it may delete links when its memory is full; set it to "
            "'noeviction'",
            product=info.product,
            policy=info.eviction_policy,
        )
    if durable and info.replicas == 0:
        log.warning(
            "store_without_replica",
            "durable is set, and %(product)s has no replica connected: until it has one, a changed link is a "
            "NotReplicatedError",
            product=info.product,
        )
    return info
