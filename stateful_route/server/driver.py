"""The server driver: what a pod uses to say how it is, and to hold its uids."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from random import Random
from typing import TYPE_CHECKING

import anyio

from stateful_route._background.periodic import PeriodicTask
from stateful_route._background.tasks import outlast
from stateful_route._clock import lease_clock
from stateful_route._deadline import within
from stateful_route._lifecycle import Driver, Phase
from stateful_route._log import log
from stateful_route._validation import (
    MAX_ID_BYTES,
    RESOLUTION,
    check_count,
    check_duration,
    check_id,
    check_pod_index,
    check_seconds,
)
from stateful_route.config import BaseConfig
from stateful_route.errors import ConfigError, LifecycleError, StoreError
from stateful_route.instrumentation import teller_of
from stateful_route.links import LinkKey
from stateful_route.pods import RoutingState
from stateful_route.server.callbacks import check_forget, check_hand_off, check_movable, check_travel
from stateful_route.server.departure.arrivals import Arrivals
from stateful_route.server.departure.drain import Drain
from stateful_route.server.departure.hand_over import HandOver
from stateful_route.server.departure.rebalance import Rebalancer
from stateful_route.server.departure.requests import PodRequests
from stateful_route.server.departure.travel import Travel
from stateful_route.server.life.ending import Ending
from stateful_route.server.life.heartbeats import Heartbeats
from stateful_route.server.life.lease import PodLease
from stateful_route.server.life.status import PodStatus
from stateful_route.server.load_meter import LoadMeter
from stateful_route.server.owning.idle import IdleReleases
from stateful_route.server.owning.invalidations import PodInvalidationListener
from stateful_route.server.owning.link_checks import LinkChecks
from stateful_route.server.owning.links import LinkCalls
from stateful_route.server.owning.operations import UidOperations
from stateful_route.server.owning.owned_uids import OwnedUids
from stateful_route.server.owning.reclaim import Reclaim
from stateful_route.server.owning.staging import Staging
from stateful_route.server.parcels import MAX_STATE
from stateful_route.server.tally import Tally
from stateful_route.statistics import PodIdentity, ServerCounts, ServerStatistics, counted

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.lives import Life
    from stateful_route.load import LoadSource
    from stateful_route.pods import ServerInfo
    from stateful_route.server.departure.hand_over import HandOff
    from stateful_route.server.departure.rebalance import Movable
    from stateful_route.server.owning.ownership import Ownership
    from stateful_route.server.parcels import Adopt, StateCarrier
    from stateful_route.store.protocol import Store

# Seconds for which a pod that stops waits until receivers were told.
_TOLD_WITHIN = 1.0

# Random bytes of a uid that is minted: 128 bits, which nobody guesses, and which no two pods draw.
_MINTED_BYTES = 16


def _keep_nothing() -> None:
    """Keep no uids."""


def _do_nothing() -> None:
    """Do nothing."""


class ServerDriver(Driver):
    """Publishes the load and the routing state of this pod, and makes, confirms and removes links.

    Implements ``StatefulRouteForServerDriver``, which documents the methods of the contract. On top of it, ``claim``
    confirms a uid for this pod and gives a handle.

    An empty namespace means that of ``server_info``. Every call raises ``InvalidArgumentError`` before anything is
    sent, ``LifecycleError`` outside the driver's block, and a ``StoreError`` within the deadline of the store.
    """

    def __init__(
        self,
        store: Store,
        server_info: ServerInfo,
        config: BaseConfig | None = None,
        *,
        load_source: LoadSource | None = None,
        hand_off: HandOff | None = None,
        movable: Movable | None = None,
        adopt: Adopt | None = None,
        carrier: StateCarrier | None = None,
        max_state: int = MAX_STATE,
        instrumentation: object = None,
        clock: Callable[[], float] = lease_clock,
        random: Random | None = None,
    ) -> None:
        """Make a driver that is not started. ``clock`` is in seconds and never goes back.

        The default goes on while the machine is suspended, where there is such a clock (Linux, macOS).

        ``load_source`` says how loaded the pod is, by default by its links; ``cpu_factor`` weighs it with CPU.
        ``hand_off`` is called with each uid before it is released by ``drain()``, ``stop()`` or a rebalancing, which
        lets go what ``movable`` names, if the setting ``rebalance`` turns it on.

        ``hand_off`` is an ``async def``, of which 64 run at a time; a drain calls it once for each uid, and cancels
        those that run when its deadline has passed. A plain function does too, or anything else that can be called,
        if it is quick: the event loop stands still meanwhile, no deadline cuts it off, and what it returns is awaited
        if it can be.

        With ``adopt`` the state of a uid travels: the bytes that ``hand_off`` returns, at most ``max_state``, go to the
        pod that gets the uid, over ``carrier``, and ``adopt`` is called there before that pod owns it. While no pod
        takes them the uid is owned still, and a drain calls ``hand_off`` again, for some seconds.

        ``instrumentation`` is told what happens: see ``Instrumentation``. Calls to the store are told if that was
        given to ``StatefulRoute``.

        Raises:
            InvalidArgumentError: if ``load_source`` is no source; if ``hand_off`` cannot be called with a uid, or is a
                generator; if ``movable`` cannot be called with a number, or is an ``async def``; if ``adopt`` cannot be
                called with a uid, bytes and an epoch, or is a generator; if ``max_state`` is no int from 0.
            ConfigError: if ``adopt`` is given without ``hand_off`` or ``carrier``, or that without it; or if
                ``hand_off`` is annotated to return bytes, and there is no ``adopt``; or if CPU is to be weighed twice,
                or is to be measured without psutil; or if ``rebalance`` is set and there is no ``movable``; or if
                ``call_deadline`` is above half of the lease; or if ``max_links_is_hard`` is set and ``max_links`` is
                not.

        """
        super().__init__()
        if hand_off is not None:
            check_hand_off("hand_off", hand_off, adopts=adopt is not None)
        if movable is not None:
            check_movable("movable", movable)
        check_travel(hand_off, adopt, carrier, max_state)
        config = BaseConfig() if config is None else config
        config.check_for_pod()
        random = Random() if random is None else random  # noqa: S311 - it spreads load
        self._config = config
        self._load = LoadMeter(load_source, config.cpu_factor, clock)
        self._lease = PodLease(server_info, config.lease_seconds, clock)
        self._owned = OwnedUids(self._lease, care_seconds=config.heartbeat)
        self._status = PodStatus(self._owned, self._load, config)
        self._tally = tally = Tally(self._lease, teller_of(instrumentation))
        self._operations = UidOperations(store, server_info, self._owned, self._status, config, Staging(adopt))
        self._links = LinkCalls(store, self._operations, config)
        self._reclaim = Reclaim(self._operations, random)
        self._heartbeats = Heartbeats(store, self._owned, self._status, self._reclaim, config, tally)
        self._ends = Ending(self._heartbeats, self._lease.name, config, random)
        self._ending: asyncio.Task[bool] | None = None
        self._checks = LinkChecks(self._operations, self._heartbeats, random)
        self._idle = IdleReleases(self._operations, most=max(1, round(config.drain_rate * config.heartbeat)))
        self._travel = Travel(store, self._operations, carrier, random, max_state=max_state)
        self._arrivals: Arrivals | None = None
        if carrier is not None:
            self._arrivals = Arrivals(self._operations, self._status, max_state=max_state, max_links=config.max_links)
            self._status.adopts = True
            carrier.attach(self._arrivals)
        self._hand_over = hand_over = HandOver(
            self._owned, hand_off, tally, rate=config.drain_rate, travel=self._travel
        )
        self._requests = PodRequests(store, hand_over, drain=self._drain_as_asked, undrain=self._undrain_as_asked)
        self._prepare_drain: Callable[[], float | None] = _keep_nothing
        self._end_drain: Callable[[], None] = _do_nothing
        self._leaves = False
        """Whether the application drains the pod, or has drained it: as a rule because the process ends."""
        self._invalidations = PodInvalidationListener(
            store,
            self._operations,
            self._heartbeats,
            self._checks,
            patience=config.listen_patience,
            random=random,
            asked=self._requests.take,
        )

        def each(period: float, name: str, action: Callable[[], Awaitable[None]]) -> PeriodicTask:
            name = f"{name} of {self._lease.name}"
            return PeriodicTask(name, action, period, random=random, clock=clock)

        self._beating = each(config.heartbeat, "heartbeat", self._heartbeats.beat)
        self._caring = each(config.heartbeat, "care for the links", self._care)
        self._rebalancing: PeriodicTask | None = None
        if config.rebalance:
            rebalancer = Rebalancer(store, hand_over, movable, random)
            self._rebalancing = each(config.rebalance_period, "rebalancing", rebalancer.cycle)
        staging = self._operations.staging
        self._draining = Drain(
            self._status,
            self._heartbeats,
            self._reclaim,
            hand_over,
            self._rebalancing,
            config,
            staging=staging,
            tally=tally,
        )

    def __repr__(self) -> str:
        server = self.server_info
        return f"<ServerDriver of {server.service_name!r} pod {server.pod_index}: {self._phase}>"

    @property
    def server_info(self) -> ServerInfo:
        """Which pod this is; without an index if that is leased, and it has none at the moment."""
        return self._lease.server

    @property
    def pod_index(self) -> int | None:
        """The index of this pod; a leased one is ``None`` before the start, and changes if another process gets it."""
        return self._lease.pod_index

    @property
    def incarnation(self) -> int:
        """This life of the pod; 0 before it is started."""
        return self._lease.incarnation

    @property
    def life(self) -> Life | None:
        """The name of this life of the pod, by which whoever sees the process end can end it: ``route.end_life``.

        ``None`` before the start, and while Redis has not answered to the registration of another one. It is another
        one after each time that Redis lost this pod, or it was taken for dead, or its leased index went to another
        process. Who keeps it elsewhere has to keep up with that; the setting ``life_dir`` does.
        """
        return self._lease.named

    @property
    def healthy(self) -> bool:
        """Whether this process can still own uids: what a liveness probe asks. Local: no I/O.

        ``False`` once the driver was stopped or could not start, once a newer process with its pod index has superseded
        it, and if its heartbeats have ended by a fault of the package: every call fails for good then, and only
        another process helps. ``True`` otherwise: also before the start, while the pod drains or after it was set to
        SHUTDOWN, as it leaves by itself, and while Redis is away, as no restart brings that back.
        """
        return not (self._phase in {Phase.STOPPED, Phase.FORKED} or self._lease.superseded or self._beating.failed)

    def statistics(self) -> ServerStatistics:
        """Return how this pod is, and what it has done so far. Local: no I/O.

        From another thread, as a web server for metrics may ask, the load is that which was read last: a load source is
        of the event loop.
        """
        tally, report = self._tally, self._status.report(asks=self.in_its_loop)
        return ServerStatistics(
            links=report.links,
            load=report.load,
            placed=report.placed_total,
            heartbeat_age=tally.heartbeat_age,
            adopted=self._operations.staging.adopted,
            pod=self._identity(),
            **counted(ServerCounts, tally),
        )

    def _identity(self) -> PodIdentity | None:
        """Return which pod this is, while it runs."""
        server = self._lease.server
        if self._phase not in {Phase.RUNNING, Phase.STOPPING} or self._lease.ended or server.pod_index is None:
            return None
        return PodIdentity(
            service=server.service_name,
            namespace=server.namespace,
            pod_index=server.pod_index,
            pod_name=server.pod_name,
            version=self._config.version,
        )

    async def stop(self) -> None:
        """Drain, say goodbye, and leave no task behind. A second call waits for the first, or does nothing.

        It takes at most ``drain_deadline`` for the drain, if there was none before, and ``stop_deadline`` for all
        else: 25 s by default, and 5 s after a ``drain()``, of the 30 s that Kubernetes gives. What is claimed after
        the drain is handed over within half of ``stop_deadline``. (A store that does not answer at all may take
        ``stop_deadline`` from the drain, should that be longer than ``drain_deadline``, and a load source has a tenth
        of a second to end.) A hand-off, or an ``adopt``, that does not end when it is cancelled is waited for.

        If the store does not answer, the uids that are owned are handed off all the same, and not released: what this
        process remembers ends with it.

        It comes to its end even if the caller is cancelled; the cancellation is raised after it.
        """
        await super().stop()

    async def end(self) -> bool:
        """End this life at once, without a drain, a hand-off or a goodbye; return whether Redis has ended it.

        It is for a driver that stands for something else whose state is gone, as a supervisor has that sees its child
        end. All handles are lost when the call begins, the uids are taken over as soon as clients hear of it, and no
        task is left behind. Another driver, of the same pod too, can be started then, and owns at once. It does not
        hand off what is left: a drain that runs is cut off.

        It takes ``stop_deadline`` at most, and as long again to leave no task behind. If Redis does not answer within
        that, or an older life of the pod may still own, it is ``False``: the life ends with its lease then. A second
        call waits for the first. It comes to its end even if the caller is cancelled.

        Raises:
            LifecycleError: if the driver does not run.

        """
        if self._ending is None:
            self._check_running()
            self._heartbeats.abandon()
            self._draining.abandon()
            self._ending = asyncio.create_task(self._ends.end_life(), name=f"stateful_route end of {self._lease.name}")
        try:
            return await outlast(self._ending)
        finally:
            await self.stop()

    async def _start(self) -> None:
        self._ends.open()
        await self._load.start()
        await self._heartbeats.register()
        self._beating.start()
        self._invalidations.start()
        self._caring.start()
        if self._rebalancing is not None:
            self._rebalancing.start()

    async def _stop(self) -> None:
        try:
            await self._draining.leave()
        finally:
            await self._say_goodbye(self._draining.leave_by)

    async def _say_goodbye(self, deadline: float) -> None:
        await self._travel.stop(max(0.0, min((deadline - anyio.current_time()) / 2, _TOLD_WITHIN)))
        if self._arrivals is not None:
            await self._arrivals.stop()
        await self._requests.stop()
        await self._beating.stop()
        await self._invalidations.stop()
        await self._caring.stop()
        await self._reclaim.stop()
        self._status.routing_state = RoutingState.SHUTDOWN
        with anyio.CancelScope(deadline=deadline) as scope:
            await self._ends.say_goodbye()
        await self._operations.staging.stop()  # a uid whose adoption is cut off is served by nobody here
        await self._load.stop(scope.deadline)

    async def _care(self) -> None:
        await self._checks.look_after()
        await self._idle.look_after()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._owned.leave_to_the_parent()

    async def drain(self, *, keep_until_idle: float | None = None) -> None:
        """Take no new uids, and hand over those that are held: what ``stop()`` does first.

        DENY_NEW_CALL is in the store, and announced, before the first uid goes. Each uid is handed off (``hand_off``)
        and then released: its next call is placed on another pod. Uids are served until they are released. It takes
        ``drain_deadline`` at most, announcing included (that may take ``stop_deadline``, should it be longer). What is
        left then, be its hand-off cut off or never begun, is served and stays linked, is not handed off again, and is
        taken over once this pod has said goodbye; a warning says how many uids that are.

        With ``keep_until_idle`` each uid is kept, and served, until nobody has used it for so many seconds (from 0; see
        ``claim``, ``idle_ttl``), and handed over then. The rest is handed over as always once the end is near: from
        ``stop_deadline`` before the ``drain_deadline`` on, or from half of that. It is for an application that cannot
        hand its state off, and whose users leave by themselves.

        A second call waits for the first. If it keeps uids for less time, or not at all, as ``stop()`` does, that
        counts from then on. A pod that is set to READY keeps its uids from then on. After that, or after a drain, it
        drains anew.

        Raises:
            InvalidArgumentError: if ``keep_until_idle`` is not a finite number of seconds from 0.

        """
        if keep_until_idle is not None:
            check_seconds("keep_until_idle", keep_until_idle)
        self._check_running()
        self._leaves = True
        if self._stopping is None:
            await self._draining.run(keep_until_idle)
        else:
            await self._draining.wait()  # that of stop(), which does not begin another one

    async def move(self, uid: str, pod_index: int | None = None) -> bool:
        """Let a uid go to another pod, with its state; return whether it is there.

        That pod is chosen by load, or named. If ``hand_off`` fails, or no pod takes the state, this pod has the uid as
        before. If ``hand_off`` gives ``None``, the uid is released, as its state is elsewhere; but it stays if a pod is
        named.

        Raises:
            InvalidArgumentError: if ``uid`` is no id, or ``pod_index`` no pod index.
            ConfigError: if the driver has no ``adopt``.
            StoreError: if the store did not answer, and the uid was to be released.

        """
        check_id("uid", uid)
        if pod_index is not None:
            check_pod_index("pod_index", pod_index)
        if self._arrivals is None:
            raise ConfigError("adopt", None, "given, and a hand_off that returns bytes: or no state can travel")
        self._check_running()
        return await self._hand_over.let_go(uid, pod_index)

    def when_asked(self, drain: Callable[[], float | None], undrain: Callable[[], None]) -> None:
        """Have ``drain`` called before this pod drains as an operator asks, and ``undrain`` when that is to end.

        For who serves uids in front of this driver. ``drain`` returns for how many seconds without use uids are kept,
        as ``keep_until_idle`` of ``drain()``, or ``None``.
        """
        self._prepare_drain, self._end_drain = drain, undrain

    def when_lost(self, forget: Callable[[str], None]) -> None:
        """Have ``forget`` called with each uid that is lost, after the callbacks of its handle: see ``on_lost``."""
        check_forget("forget", forget)
        self._owned.when_lost = forget

    def when_stays(self, serve: Callable[[str], None]) -> None:
        """Have ``serve`` called with each uid that was handed off, and that the pod keeps as no pod takes its state.

        For who serves uids in front of this driver, and has let nothing begin since. It must not raise.
        """
        self._hand_over.when_stays = serve

    def note_refused(self) -> None:
        """Count a request whose new uid was refused, as too many came at once: the next heartbeat says so."""
        self._status.refused_new += 1

    def going_to(self, uid: str) -> int | None:
        """Return the pod to which an operator has asked a uid to go, while it is handed off; ``None`` for any."""
        life = self._hand_over.going_to(uid)
        return None if life is None else life.pod_index

    async def _drain_as_asked(self, *, force: bool) -> None:
        """Drain as at a signal, and live on. Unless it is forced, what has a state that no pod takes is kept."""
        if self._stopping is not None or not self.running:
            return
        if await self._draining.run(self._prepare_drain(), again=True, keeps_states=not force):
            with contextlib.suppress(LifecycleError, StoreError):  # the next heartbeat says what came of it
                await self._heartbeats.publish()

    async def _undrain_as_asked(self) -> None:
        """Take new uids again, unless the pod drains as it ends."""
        if self._stopping is not None or not self.running or self._leaves:
            log.info("pod_ending", "%(pod)s ends, and takes no uids", pod=self._lease.name)
            return
        self._draining.call_off()
        self._end_drain()
        await self.set_routing_state(RoutingState.READY)

    async def set_load_state(self, load_state: int) -> None:
        """See ``StatefulRouteForServerDriver``."""
        check_count("load_state", load_state)
        self._check_running()
        self._status.load_state = load_state

    async def get_load_state(self) -> int:
        """See ``StatefulRouteForServerDriver``."""
        self._check_running()
        return self._status.report().load

    async def set_routing_state(self, routing_state: RoutingState) -> None:
        """See ``StatefulRouteForServerDriver``."""
        state = RoutingState.parse(routing_state)
        self._check_running()
        self._lease.check_not_ended()
        self._status.set_routing_state(state)
        self._leaves = self._leaves and state is not RoutingState.READY
        self._draining.note_state(state)
        async with within(self._config.call_deadline_seconds, "heartbeat"):
            if state is RoutingState.SHUTDOWN:
                await self._heartbeats.say_goodbye()  # its uids may be taken over at once
            else:
                await self._heartbeats.publish()

    async def get_routing_state(self) -> RoutingState:
        """See ``StatefulRouteForServerDriver``."""
        self._check_running()
        return self._status.routing_state

    async def renew(self) -> None:
        """Publish a heartbeat now, and act on the answer: what a process does that was stopped, or cut off.

        Once it has returned, the store knows this pod, and what another pod has taken meanwhile is being found out.

        Raises:
            LifecycleError: if the pod has said goodbye, or a newer process with the same index has taken over.
            StoreError: if the store did not answer.

        """
        self._check_running()
        async with within(self._config.call_deadline_seconds, "heartbeat"):
            await self._heartbeats.publish()

    async def claim(self, uid: str, *, steal_temporary: bool = False, idle_ttl: float | None = None) -> Ownership:
        """Make the link of the uid this pod's, persistently, and return the handle.

        A link of another pod is refused, and the handle says whose it is: that is a value, not an error. With
        ``steal_temporary`` a link that its pod has not confirmed, or has left in grace, is taken.

        With ``max_links_is_hard`` a pod that has ``max_links`` uids, those that are being claimed included, refuses
        one that is not its own yet; the handle says so (``full``). A link to this pod that was not confirmed is given
        up then, so that the next call of the uid goes to another pod.

        With ``idle_ttl`` the pod itself releases the uid, without a hand-off, once nobody has used it for so many
        seconds (from 0.001): no claim of it, no ``owned(uid)``, no ``touch()`` and no end of ``in_use()`` of a handle,
        and nobody in such a context. It does so within two heartbeats, and ``on_lost`` tells it. By default a uid is
        never idle. A later claim sets it anew.
        """
        check_id("uid", uid)
        if idle_ttl is not None:
            check_duration("idle_ttl", idle_ttl)
        self._check_running()
        ownership = await self._operations.claim(uid, steal_temporary=steal_temporary)
        self._owned.set_idle_ttl(ownership, idle_ttl)
        return ownership

    async def mint(self, prefix: str = "", *, idle_ttl: float | None = None) -> Ownership:
        """Make a new uid, claim it for this pod, and return the handle, which is owned.

        The uid is 128 random bits as 32 hexadecimal digits, behind the prefix and a hyphen if there is one:
        ``mint("br")`` gives ``br-0f9a...``. It is for ids that the application hands out itself: nobody can guess it,
        so no client has placed it on another pod before. In a URL, a cookie or a header it needs no quoting if the
        prefix needs none. ``idle_ttl`` is that of ``claim``.

        Raises:
            InvalidArgumentError: if ``prefix`` is no id, and not empty, or is longer than 479 bytes.
            NotOwnerError: if this pod cannot own it now, as its lease has ended, or it waits for that of an older life;
                ``full`` if it is.

        """
        uid = secrets.token_hex(_MINTED_BYTES)
        if idle_ttl is not None:
            check_duration("idle_ttl", idle_ttl)
        if prefix != "":
            check_id("prefix", prefix, longest=MAX_ID_BYTES - len(uid) - 1)
            uid = f"{prefix}-{uid}"
        self._check_running()
        ownership = await self._operations.claim(uid, steal_temporary=False)
        # Nobody is told of one that is not owned: should it be held, it is released.
        self._owned.set_idle_ttl(ownership, idle_ttl if ownership.is_owned() else RESOLUTION)
        ownership.require()
        return ownership

    def owned(self, uid: str) -> Ownership | None:
        """Return the handle of a uid that this pod owns now, or ``None``, and note that it is used. Local: no I/O."""
        return self._owned.use(uid)

    async def set_linked_pod(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int | None:
        """See ``StatefulRouteForServerDriver``."""
        key = self._key(namespace, uid, service_name)
        check_pod_index("pod_index", pod_index)
        return await self._links.set(key, pod_index)

    async def try_set_linked_pod(self, namespace: str, uid: str, service_name: str, pod_index: int) -> int:
        """See ``StatefulRouteForServerDriver``."""
        key = self._key(namespace, uid, service_name)
        check_pod_index("pod_index", pod_index)
        return await self._links.try_set(key, pod_index)

    async def remove_linked_pod(self, namespace: str, uid: str, service_name: str) -> bool:
        """See ``StatefulRouteForServerDriver``."""
        return await self._links.remove(self._key(namespace, uid, service_name), None, 0.0)

    async def remove_linked_pod_with_id(
        self, namespace: str, uid: str, service_name: str, pod_index: int, persist_seconds: float = 0.0
    ) -> bool:
        """See ``StatefulRouteForServerDriver``."""
        key = self._key(namespace, uid, service_name)
        check_pod_index("pod_index", pod_index)
        check_seconds("persist_seconds", persist_seconds)
        return await self._links.remove(key, pod_index, persist_seconds)

    def _key(self, namespace: str, uid: str, service_name: str) -> LinkKey:
        namespace = self.server_info.namespace if namespace == "" else namespace
        check_id("namespace", namespace)
        check_id("uid", uid)
        check_id("service_name", service_name)
        self._check_running()
        return LinkKey(namespace, uid, service_name)
