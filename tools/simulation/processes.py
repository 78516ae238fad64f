"""The applications of a simulated world, on the real drivers: pods with a memory of what they serve, and gateways."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from stateful_route.client.driver import ClientDriver
from stateful_route.errors import LifecycleError, StoreError
from stateful_route.links import LinkKind
from stateful_route.pods import PodLife, RoutingState, ServerInfo
from stateful_route.server.driver import ServerDriver
from tools.simulation.carrier import SimulatedCarrier
from tools.simulation.leftovers import gather_early, is_waiting
from tools.simulation.process import Process
from tools.simulation.store import noting_requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.server.owning.ownership import Ownership
    from tools.simulation.carrier import Roads

SERVICE = "room"


class PodProcess(Process):
    """A pod, and the application in it: it claims what it is asked for, and serves it while it owns it."""

    driver: ServerDriver

    def __init__(self, index: int | None, roads: Roads | None, *args: Any) -> None:
        """Start a process of pod ``index``, or of one that leases its index; states travel over ``roads``."""
        super().__init__(*args)
        self.roads = roads
        self.carrier: SimulatedCarrier | None = None
        self.adopted: dict[str, tuple[int, int]] = {}
        """The epoch and the version of each uid whose state has come along, and was not used yet."""
        self.arrived: dict[str, int] = {}
        """The epoch of each uid whose state has come along, were it good or not."""
        self.lives: set[int] = set()
        self.memory: dict[str, tuple[Ownership, int]] = {}
        """The handle and the version with which each uid was loaded."""
        self.torn: set[str] = set()
        """Uids whose memory may miss a write for a known reason: another pod served them too, and was excused."""
        self.started = False
        self.over = False
        """Whether its driver has stopped."""
        self.stopped_well = False
        """Whether it has stopped while there was no fault of its machine or the store."""
        self.stopped_at = 0.0
        self._states = 0
        self._left_waiting = False
        self._drained = False
        self._claimed: dict[str, list[Ownership]] = {}
        self._info = ServerInfo(
            namespace=self.config.namespace, service_name=SERVICE, pod_name=self.name, pod_index=index
        )
        self.driver = self._make_driver()
        self.machine.spawn(self._run())

    @property
    def index(self) -> int:
        """The index of the pod; -1 while it has leased none."""
        index = self.driver.pod_index
        return -1 if index is None else index

    def _make_driver(self) -> ServerDriver:
        travels = {}
        if self.roads is not None:
            self.carrier = SimulatedCarrier(self.roads, self.machine, self.random)
            travels = {"adopt": self._adopt, "carrier": self.carrier}
        return ServerDriver(
            self.store,
            self._info,
            self.config,
            hand_off=self._hand_off,
            movable=self._movable if self.config.rebalance else None,
            clock=self.machine,
            random=self.random,
            **travels,  # type: ignore[arg-type]  # of two kinds
        )

    async def _run(self) -> None:
        """Start a driver, another one after each that could not start."""
        while True:
            try:
                await self.driver.start()
            except (StoreError, LifecycleError) as error:
                if self.leaving:
                    self.over = True
                    return
                if isinstance(error, LifecycleError):
                    raise
            else:
                self.started = True
                return
            await asyncio.sleep(0.1)
            self.judge.trace.note(self.name, "makes a new driver")
            self.driver = self._make_driver()

    @property
    def may_be_out(self) -> bool:
        """Whether its driver may refuse calls for good."""
        return self.leaving or not (self.started and self.driver.healthy)

    @property
    def usable(self) -> bool:
        """Whether calls make sense now."""
        return self.machine.alive and self.started and not self.over and self.driver.running

    # -- the application

    async def request(self, uid: str) -> str:
        """Serve one request; return how it ended."""
        driver = self.driver
        if not self.usable:
            return "out"
        try:
            handle = driver.owned(uid)
            if handle is None or not self._has_loaded(handle):
                handle = await driver.claim(uid)
                if not handle.is_owned():
                    return "elsewhere"
                await self._load(handle)
        except (StoreError, LifecycleError):
            return "error"
        return "served" if self.serve(uid) else "elsewhere"

    def serve(self, uid: str) -> bool:
        """Serve a uid from memory, if it is owned and loaded; nothing happens between that check and the serving."""
        handle = self.driver.owned(uid)
        if handle is None or not self._has_loaded(handle):
            return False
        self.memory[uid] = handle, self.judge.served(self, handle, self.memory[uid][1])
        return True

    def _has_loaded(self, handle: Ownership) -> bool:
        return handle.uid in self.memory and self.memory[handle.uid][0] is handle

    async def _load(self, handle: Ownership) -> None:
        """Load the state of a uid, unless what is in memory is still valid."""
        uid, ledger = handle.uid, self.judge.ledger
        if self._has_loaded(handle):
            return
        epoch, version = self.adopted.pop(uid, (0, 0))
        if epoch == handle.epoch:
            self.judge.trace.note(self.name, "goes on", f"{uid} at epoch {epoch} with what came along: {version}")
            self.torn.discard(uid)
            self.memory[uid] = handle, version
            return
        if uid in self.memory:
            older, version = self.memory[uid]
            if handle.epoch == older.epoch or handle.resumes(older):
                self.judge.trace.note(self.name, "resumes", f"{uid} at epoch {handle.epoch} from {older.epoch}")
                self.memory[uid] = handle, version
                return
        await asyncio.sleep(self.random.random() * 0.004)
        version = ledger[uid]
        await asyncio.sleep(self.random.random() * 0.002)
        if self.driver.owned(uid) is handle and not self._has_loaded(handle) and ledger[uid] == version:
            self.torn.discard(uid)
            self.memory[uid] = handle, version

    async def _adopt(self, uid: str, data: bytes, epoch: int) -> None:
        """Take in a state that has come along with a uid."""
        if self.driver.owned(uid) is not None:
            self.judge.violate("adopted before it is owned", f"{self.name} owns {uid}, and is given its state")
        await asyncio.sleep(self.random.random() * 0.005)
        self.arrived[uid] = epoch
        if self.random.random() < 0.03:
            raise ValueError(uid)
        self.adopted[uid] = epoch, int(data)

    async def _hand_off(self, uid: str) -> Any:  # bytes are refused without ``adopt``, and here they are to be lost
        if self.driver.owned(uid) is None:
            self.judge.violate("what is handed off is owned", f"{self.name} hands {uid} off, and does not own it")
        await asyncio.sleep(self.random.random() * 0.01)
        if self.random.random() < 0.05:
            raise ValueError(uid)
        if self.random.random() < 0.1:
            with contextlib.suppress(StoreError):  # it is moved to a pod that the application has chosen
                await self.driver.set_linked_pod("", uid, SERVICE, self.random.randrange(2))
        await asyncio.sleep(self.random.random() * 0.01)
        handle = self.driver.owned(uid)
        if handle is None or not self._has_loaded(handle) or uid in self.torn:
            return None
        return b"%d" % self.memory[uid][1]

    def _movable(self, count: int) -> list[str]:
        return [handle.uid for handle in self._owned()][:count]

    def _owned(self) -> list[Ownership]:
        return [handle for uid in self.judge.uids if (handle := self.driver.owned(uid)) is not None]

    # -- what a plan may ask for

    def operations(self, args: dict[str, Any]) -> dict[str, Callable[[], Any]]:
        """Return what a plan may ask for, by the kind of the action."""
        driver = self.driver
        uid = f"u{args.get('uid', 0)}"
        pod: int = args.get("pod", 0)
        grace: float = args.get("grace", 0.0)
        return {
            "claim": lambda: self._claim(uid, steal=args.get("steal", False)),
            "serve": lambda: self.serve(uid),
            "release": lambda: self._release(uid, grace),
            "try_set": lambda: driver.try_set_linked_pod("", uid, SERVICE, pod),
            "set": lambda: self._set(uid, pod),
            "remove": lambda: driver.remove_linked_pod("", uid, SERVICE),
            "remove_with_id": lambda: driver.remove_linked_pod_with_id("", uid, SERVICE, pod, grace),
            "routing_state": lambda: self._set_state(RoutingState(args["state"])),
            "drain": self._drain,
            "move": lambda: driver.move(uid, args.get("to")),
            "release_again": lambda: self._release_again(uid, args.get("before", 1)),
            "ballast": lambda: self._claim_ballast(args.get("count", 0)),
            "check_reclaimed": lambda: self._check_reclaimed(args["uids"]),
        }

    async def _claim(self, uid: str, *, steal: bool) -> object:
        handle = await self.driver.claim(uid, steal_temporary=steal)
        self._check_believed(handle)
        self._claimed.setdefault(uid, []).append(handle)
        if handle.is_owned():
            await self._load(handle)
            self.serve(uid)
        return handle

    def _check_believed(self, handle: Ownership) -> None:
        """Check that a pod which is told of another owner does not own the uid by an older claim."""
        mine = self.driver.owned(handle.uid)
        if mine is not None and handle.pod_index not in {None, self.index} and (mine.epoch or 0) < (handle.epoch or 0):
            self.judge.violate("an answer is believed", f"{self.name} is told {handle!r}, and has {mine!r}")

    async def _release(self, uid: str, grace: float) -> object:
        handle = self.memory[uid][0] if uid in self.memory else self.driver.owned(uid)
        return None if handle is None else await handle.release(grace)

    async def _release_again(self, uid: str, before: int) -> object:
        """Release an older handle than the last one again: the first release was not answered."""
        claimed = [handle for handle in self._claimed.get(uid, ()) if handle.pod_index == self.index]
        return await claimed[-1 - before].release() if len(claimed) > before else None

    async def _set(self, uid: str, pod: int) -> object:
        """Force a link; check that the uid is not owned if the outcome is unknown."""
        before = self.driver.owned(uid)
        with noting_requests() as requests:
            try:
                return await self.driver.set_linked_pod("", uid, SERVICE, pod)
            except StoreError:
                asked = any(request.name == "assign" for request in requests)
                if asked and before is not None and self.driver.owned(uid) is before:
                    what = f"{self.name} does not know whether {uid} was given to pod {pod}, and owns it"
                    self.judge.violate("what is not known is not owned", what)
                raise

    async def _claim_ballast(self, count: int) -> object:
        """Claim uids that nobody asks for, so that verifying all takes long."""
        for number in range(0, count, 50):
            some = range(number, min(number + 50, count))
            await asyncio.gather(*(self.driver.claim(f"ballast {each}") for each in some), return_exceptions=True)
        return count

    def _check_reclaimed(self, uids: list[int]) -> object:
        """Check that uids on a node that answers are owned again, though another node is down; nobody took them."""
        for number in uids:
            if self.driver.healthy and self.driver.owned(f"u{number}") is None:
                what = f"{self.name} does not claim u{number} again, though the store is there"
                self.judge.violate("what was lost is claimed again", what)
        return "checked"

    async def _drain(self) -> object:
        self._states += 1
        self._drained = True
        await self.driver.drain()
        return "drained"

    async def _set_state(self, state: RoutingState) -> None:
        driver = self.driver
        self._states += 1
        number = self._states
        if state is RoutingState.SHUTDOWN:
            self._leave()
        await driver.set_routing_state(state)
        if number == self._states and not driver.stopped and driver.incarnation and not is_waiting(driver):
            self.check_state(state, "set_routing_state returned")

    def check_state(self, state: RoutingState, when: str) -> None:
        """Check that the store has the routing state of this pod."""
        judge = self.judge
        if judge.losing:
            return
        life = PodLife(self.index, self.driver.incarnation)
        # A life that waits for an older one says no goodbye, or its successor would not wait.
        waits = self._left_waiting or is_waiting(self.driver)
        accepted = {state, RoutingState.DENY_NEW_CALL} if waits else {state}
        for pod in judge.table().pods:
            if pod.life == life and not pod.dead and pod.report.routing_state not in accepted:
                text = f"{when}: {self.name} is {pod.report.routing_state} in the store, not {state}"
                judge.violate("a routing state is in the store", text)

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the driver, as SIGTERM makes it; ``at_once`` ends its life, as a supervisor does whose child is gone."""
        if not self.leaving or not self.over:
            self.leaving = True
            self.machine.spawn(self._end() if at_once else self._stop())

    async def _end(self) -> None:
        judge, config, machine = self.judge, self.config, self.machine
        judge.trace.note(self.name, "ends its life")
        began, stalled = machine.loop.now, machine.stalled_for
        try:
            ended = await self.driver.end()
        except LifecycleError:  # it does not run yet, or any more
            await self._stop()
            return
        took = machine.loop.now - began - (machine.stalled_for - stalled)
        judge.trace.note(self.name, "has ended its life" if ended else "has not ended its life", f"after {took:.3f} s")
        bound = 2 * config.stop_deadline + 0.2 + config.call_deadline_seconds + 0.02
        if not self._drained:  # a hand-off that is cut off is waited for
            self.check_took("end()", took, bound)
        await self.store.aclose()
        self.over, self.stopped_at = True, machine.loop.now

    def _leave(self) -> None:
        self.leaving = True
        self._left_waiting |= is_waiting(self.driver)

    async def _stop(self) -> None:
        judge, config, machine = self.judge, self.config, self.machine
        deadline = config.call_deadline_seconds
        judge.trace.note(self.name, "stops")
        began, stalled = machine.loop.now, machine.stalled_for
        self._leave()
        waiting = self._left_waiting
        owned = self._owned()
        await self.driver.stop()
        took = machine.loop.now - began - (machine.stalled_for - stalled)
        self.longest["stop"] = max(took, self.longest.get("stop", 0.0))
        before = began - 4 * deadline  # the pipe waits to connect again
        troubled = judge.troubled.get(self.name, 0.0) >= before or judge.server.refuses or judge.lost_until > 0
        self.stopped_well = self.started and not (waiting or troubled or deadline < judge.bounds.slowest)
        newest = judge.newest.get(self.index)
        superseded = newest is not None and newest[1] is not machine
        # What a drain before could not hand off in time is not handed off again.
        lossy = self.roads is not None and self.roads.losses > 0
        if self.stopped_well and not (superseded or self._drained or lossy) and took < config.drain_deadline:
            self._check_released(owned)
        judge.trace.note(self.name, "has stopped", f"after {took:.3f} s")
        # A stop waits for a load source as well, and for a hand-off that ends.
        bound = max(config.drain_deadline, config.stop_deadline) + config.stop_deadline + 0.2 + deadline + 0.02
        self.check_took("stop()", took, bound)
        await self.store.aclose()
        self.over, self.stopped_at = True, machine.loop.now

    def _check_released(self, owned: list[Ownership]) -> None:
        """Check that a drain with enough time has released what was owned."""
        for handle in owned:
            link = self.judge.link(handle.uid)
            if link is not None and link.epoch == handle.epoch and link.kind is LinkKind.PERSISTENT:
                self.judge.violate("a pod that leaves releases", f"{self.name} has stopped, and has {link} still")


class ClientProcess(Process):
    """A gateway: it asks for the pod of a uid, and sends the request there."""

    driver: ClientDriver

    def __init__(self, reach: Callable[[ClientProcess, int, str], Awaitable[str]], *args: Any) -> None:
        """Start a gateway; ``reach`` carries a request to a pod, and returns what it said."""
        super().__init__(*args)
        self._reach = reach
        self.driver = ClientDriver(self.store, self.config, clock=self.machine, random=self.random)
        gather_early(self.driver)
        self.machine.spawn(self.driver.start())

    def must_be_answered(self, began: float) -> bool:
        """Whether no fault explains that a call that began then got an error of the store."""
        judge, deadline = self.judge, self.config.call_deadline_seconds
        troubled = judge.away.get(self.name, 0.0) + 6 * deadline
        return (
            troubled < began
            and 4 * judge.bounds.slowest < deadline
            and not self.machine.slowness
            and self.driver.running
        )

    @property
    def usable(self) -> bool:
        """Whether calls make sense now."""
        return self.machine.alive and self.driver.running

    def operations(self, args: dict[str, Any]) -> dict[str, Callable[[], Any]]:
        """Return what a plan may ask for, by the kind of the action."""
        driver, uids = self.driver, self.judge.uids
        uid = f"u{args.get('uid', 0)}"
        return {
            "request": lambda: self.request(uid),
            "compute": lambda: self._compute(uid),
            "batch_compute": lambda: driver.batch_compute_linked_pod("", uids, SERVICE),
            "batch_get": lambda: driver.batch_get_linked_pod("", uids, SERVICE),
            "get": lambda: driver.get_linked_pod("", uid, SERVICE),
            "set_if_absent": lambda: self._set_if_absent(uid, args.get("pod", 0)),
            "pods": lambda: driver.pods("", SERVICE),
        }

    async def stop(self) -> None:
        """Stop the driver, and close the store."""
        await self.driver.stop()
        await self.store.aclose()

    async def _set_if_absent(self, uid: str, pod: int) -> object:
        with noting_requests():
            return await self.driver.set_linked_pod_if_absent("", uid, SERVICE, pod)

    async def _compute(self, uid: str) -> int:
        """Return the pod of a uid."""
        cached = self.driver.peek("", uid, SERVICE)
        if cached is not None:
            self.judge.cached(self.name, uid, cached)
            return cached
        pod = await self.driver.compute_linked_pod("", uid, SERVICE)
        self.judge.answered(self.name, uid, pod)
        return pod

    async def request(self, uid: str) -> list[tuple[int, str]]:
        """Route a request, up to four times until it is served; return each pod and what it said."""
        went = []
        for _ in range(4):
            pod = await self._compute(uid)
            what = await self._reach(self, pod, uid)
            went.append((pod, what))
            if what == "served":
                break
            if what == "unreachable":
                await self.driver.report_unreachable("", SERVICE, pod)
            else:
                await self.driver.cache_expired("", uid, SERVICE)
            await asyncio.sleep(0.01 * self.random.random())
        return went
