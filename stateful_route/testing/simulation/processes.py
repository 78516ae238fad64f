"""The processes of a simulated world: an application on the real drivers, with a memory of what it serves."""

from __future__ import annotations

import asyncio
import contextlib
import types
from typing import TYPE_CHECKING, Any

import anyio

from stateful_route.client.driver import ClientDriver
from stateful_route.errors import LifecycleError, RoutingError, StatefulRouteError, StoreError, StoreTimeoutError
from stateful_route.models import LinkKind, PodLife, RoutingState, ServerInfo
from stateful_route.server.driver import ServerDriver
from stateful_route.testing.simulation.leftovers import is_waiting
from stateful_route.testing.simulation.store import noting_requests

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from random import Random

    from stateful_route.config import BaseConfig
    from stateful_route.server.ownership import Ownership
    from stateful_route.testing.simulation.judge import Judge
    from stateful_route.testing.simulation.loop import Machine
    from stateful_route.testing.simulation.network import Network
    from stateful_route.testing.simulation.store import SimulatedStore

SERVICE = "room"
_FOREIGN = "it is another's"


@types.coroutine
def cancelled_at(coro: Coroutine[Any, Any, Any], step: int) -> Generator[Any, Any, Any]:
    """Run a coroutine, and cancel the task that runs it when it waits for the ``step``-th time."""
    task = asyncio.current_task()
    send: Callable[[Any], Any] = coro.send
    value: Any = None
    while True:
        try:
            awaited = send(value)
        except StopIteration as end:
            return end.value
        step -= 1
        if step == 0 and task is not None:
            task.get_loop().call_soon(task.cancel)
        try:
            value = yield awaited
            send = coro.send
        except BaseException as error:  # noqa: BLE001 - it is passed on
            value, send = error, coro.throw


class Process:
    """A process on a machine of its own."""

    def __init__(
        self,
        machine: Machine,
        store: SimulatedStore,
        network: Network,
        config: BaseConfig,
        judge: Judge,
        random: Random,
    ) -> None:
        """Make a process that does not run."""
        self.machine = machine
        self.name = machine.name
        self.store = store
        self.network = network
        self.config = config
        self.judge = judge
        self.random = random
        self.leaving = False
        self.asked: set[str] = set()
        self.longest: dict[str, float] = {}
        self._gave_up_at = 0.0

    def do(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]], action: dict[str, Any]) -> None:
        """Run an operation of the application in a task of its own."""
        self.machine.spawn(self._do(name, work, action))

    async def _do(self, name: str, work: Callable[[], Coroutine[Any, Any, Any]], action: dict[str, Any]) -> None:
        machine, trace = self.machine, self.judge.trace
        label = f"{name} {action}" if trace.on else ""
        trace.note(self.name, "calls", label)
        began, stalled = machine.loop.now, machine.stalled_for
        result: object
        try:
            if "cancel" in action:
                result = await cancelled_at(work(), action["cancel"])
            elif "timeout" in action:
                result = "given up"
                with anyio.move_on_after(action["timeout"]):
                    result = await work()
            else:
                result = await work()
        except asyncio.CancelledError:
            result = "cancelled"
            if not {"cancel", "timeout"} & action.keys():
                self.judge.violate("errors are expected", f"{self.name} {name} was cancelled, and by nobody")
        except (StoreError, RoutingError) as error:
            result = error
        except LifecycleError as error:
            result = error
            if not self.may_be_out:
                self.judge.violate("errors are expected", f"{self.name} {name}: {error}")
        except StatefulRouteError as error:
            result = error
            self.judge.violate("errors are expected", f"{self.name} {name}: {type(error).__name__}: {error}")
        self._look_at_end(name, label, result, began, machine.stalled_for - stalled)

    def _look_at_end(self, name: str, label: str, result: object, began: float, stalled: float) -> None:
        """See that a call has ended in time, and not with an error that nothing explains."""
        took = self.machine.loop.now - began - stalled
        if took > self.longest.get(name, 0.0):
            self.longest[name] = took
        ends = f"{label} after {took:.4f} s: {type(result).__name__} {result}" if self.judge.trace.on else ""
        self.judge.trace.note(self.name, "ends", ends)
        bound = self.bound(name)
        if isinstance(result, str) and result in {"cancelled", "given up"}:
            self._gave_up_at = self.machine.loop.now
        # Who has joined a call that was given up begins again, and may have too little time left.
        late = took >= self.config.call_deadline_seconds
        abandoned = late and isinstance(result, StoreTimeoutError) and began < self._gave_up_at
        if isinstance(result, StoreError) and not abandoned and self.must_be_answered(began):
            self.judge.violate("errors are expected", f"{self.name} {name}: {result}, and nothing was wrong")
        if took > bound:
            text = f"{self.name} {name} took {took:.3f} s: {bound:.3f} s is its bound"
            self.judge.violate("every call ends in time", text)

    def bound(self, name: str) -> float:
        """Return how long an operation may take, in seconds in which the machine runs."""
        steps = BOUNDS.get(name)
        if steps is None:
            return 1e9
        return steps * self.config.call_deadline_seconds + 0.02

    def must_be_answered(self, began: float) -> bool:
        """Whether nothing was wrong that would explain an error of the store."""
        del began
        return False

    @property
    def may_be_out(self) -> bool:
        """Whether its driver may refuse calls for good."""
        return self.leaving


BOUNDS: dict[str, float] = {
    "claim": 1,
    "release": 1,
    "set": 1,
    "try_set": 1,
    "remove": 1,
    "remove_with_id": 1,
    "routing_state": 1,
    "compute": 1,
    "get": 1,
    "set_if_absent": 1,
    "batch_compute": 1,
    "batch_get": 1,
    "report": 1,
    "pods": 1,
}
"""How long each operation may take, in call deadlines; what is not in it ends when the application lets it."""


class PodProcess(Process):
    """A pod, and the application in it: it claims what it is asked for, and serves it while it owns it."""

    def __init__(self, index: int, *args: Any) -> None:
        """Make a process of pod ``index`` that does not run."""
        super().__init__(*args)
        self.index = index
        self.driver: ServerDriver | None = None
        self.lives: set[int] = set()
        self.memory: dict[str, tuple[Ownership, int]] = {}
        self.started = False
        self.over = False
        """Whether its driver has stopped."""
        self.stopped_well = False
        self.stopped_at = 0.0
        """Whether it has stopped while nothing was wrong with its machine or the store."""
        self.states = 0
        self.left_waiting = False
        self._torn: set[str] = set()
        self._drained = False
        self._claimed: dict[str, list[Ownership]] = {}
        info = ServerInfo(namespace=self.config.namespace, service_name=SERVICE, pod_name=self.name, pod_index=index)
        self.driver = ServerDriver(
            self.store,
            info,
            self.config,
            hand_off=self._hand_off,
            movable=self._movable if self.config.rebalance else None,
            clock=self.machine,
            random=self.random,
        )
        self.machine.spawn(self._run())

    async def _run(self) -> None:
        driver = self.driver
        assert driver is not None
        for _ in range(1000):
            try:
                await driver.start()
            except StoreError:
                pass
            except LifecycleError:
                if not self.leaving:
                    raise
                self.over = True
                return
            else:
                self.started = True
                return
            if self.leaving:
                self.over = True
                return
            await asyncio.sleep(0.1)
            self.judge.trace.note(self.name, "makes a new driver")
            driver = self.driver = ServerDriver(
                self.store,
                driver.server_info,
                self.config,
                hand_off=self._hand_off,
                movable=self._movable if self.config.rebalance else None,
                clock=self.machine,
                random=self.random,
            )

    @property
    def may_be_out(self) -> bool:
        """Whether its driver may refuse calls for good."""
        return self.leaving or self.driver is None or not self.driver.healthy or not self.started

    @property
    def healthy(self) -> bool:
        """Whether a liveness probe would leave it alone."""
        return self.driver is not None and self.driver.healthy

    @property
    def usable(self) -> bool:
        """Whether calls make sense now."""
        return self.machine.alive and self.started and not self.over and self.driver is not None and self.driver.running

    # -- the application

    async def request(self, uid: str) -> tuple[str, int | None]:
        """Serve one request; return what came of it."""
        driver = self.driver
        if driver is None or not self.usable:
            return "out", None
        try:
            handle = driver.owned(uid)
            if handle is None or uid not in self.memory or self.memory[uid][0] is not handle:
                handle = await driver.claim(uid)
                if not handle.is_owned():
                    return "elsewhere", None if handle.pod_index == self.index else handle.pod_index
                await self.load(handle)
        except (StoreError, LifecycleError):
            return "error", None
        return ("served", self.index) if self.serve(uid) else ("elsewhere", None)

    def serve(self, uid: str) -> bool:
        """Serve a uid from memory, if it is owned and loaded: in one step, as an application does that asks before."""
        handle = self.driver.owned(uid) if self.driver is not None else None
        if handle is None or uid not in self.memory:
            return False
        of, version = self.memory[uid]
        if of is not handle:
            return False
        self.memory[uid] = handle, self.judge.served(self, handle, version)
        return True

    async def load(self, handle: Ownership) -> None:
        """Load what a uid needs, unless what is remembered is good."""
        uid = handle.uid
        if uid in self.memory:
            older, version = self.memory[uid]
            if older is handle:
                return
            if handle.epoch == older.epoch or handle.resumes(older):
                self.judge.trace.note(self.name, "resumes", f"{uid} at epoch {handle.epoch} from {older.epoch}")
                self.memory[uid] = handle, version
                return
        await asyncio.sleep(self.random.random() * 0.004)
        version = self.judge.ledger[uid]
        await asyncio.sleep(self.random.random() * 0.002)
        owned = self.driver is not None and self.driver.owned(uid) is handle
        if owned and not self._newer(uid, handle) and self.judge.ledger[uid] == version:
            self._torn.discard(uid)
            self.memory[uid] = handle, version

    def _newer(self, uid: str, handle: Ownership) -> bool:
        return uid in self.memory and self.memory[uid][0] is handle

    def tear(self, uid: str) -> None:
        """Note that another one served a uid at the same time, and that this was explained."""
        self._torn.add(uid)

    def torn(self, uid: str) -> bool:
        """Whether what is remembered may miss something for a known reason."""
        return uid in self._torn

    def served_in_peace(self, uid: str) -> None:
        """Note that what is remembered is what all others will see."""
        self._torn.discard(uid)

    async def _hand_off(self, uid: str) -> None:
        if self.driver is not None and self.driver.owned(uid) is None:
            self.judge.violate("what is handed off is owned", f"{self.name} hands {uid} off, and does not own it")
        await asyncio.sleep(self.random.random() * 0.01)
        if self.random.random() < 0.05:
            raise ValueError(uid)
        if self.random.random() < 0.1 and self.driver is not None:
            with contextlib.suppress(StoreError):  # it is moved to a pod that the application has chosen
                other = self.random.randrange(2)
                await self.driver.set_linked_pod("", uid, SERVICE, other)
        await asyncio.sleep(self.random.random() * 0.01)

    def _movable(self, count: int) -> list[str]:
        owned = [uid for uid in self.judge.uids if self.driver is not None and self.driver.owned(uid) is not None]
        return owned[:count]

    # -- what the plan asks for

    async def act(self, kind: str, args: dict[str, Any]) -> object:
        """Do what an action says."""
        driver = self.driver
        if driver is None:
            return None
        uid = f"u{args.get('uid', 0)}"
        pod: int = args.get("pod", 0)
        grace: float = args.get("grace", 0.0)
        work: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "claim": lambda: self._claim(uid, steal=args.get("steal", False)),
            "serve": lambda: self._serve(uid),
            "release": lambda: self._release(uid, grace),
            "try_set": lambda: driver.try_set_linked_pod("", uid, SERVICE, pod),
            "set": lambda: self._set(uid, pod),
            "remove": lambda: driver.remove_linked_pod("", uid, SERVICE),
            "remove_with_id": lambda: driver.remove_linked_pod_with_id("", uid, SERVICE, pod, grace),
            "routing_state": lambda: self._set_state(RoutingState(args["state"])),
            "drain": self._drain,
            "release_again": lambda: self._release_again(uid, args.get("before", 1)),
            "ballast": lambda: self._take_ballast(args.get("count", 0)),
            "check_reclaimed": lambda: self._check_reclaimed(args["uids"]),
        }
        return await work[kind]()

    async def _claim(self, uid: str, *, steal: bool) -> object:
        assert self.driver is not None
        handle = await self.driver.claim(uid, steal_temporary=steal)
        self._check_believed(handle)
        self._claimed.setdefault(uid, []).append(handle)
        if handle.is_owned():
            await self.load(handle)
            self.serve(uid)
        return handle

    async def _serve(self, uid: str) -> object:
        return self.serve(uid)

    async def _release(self, uid: str, grace: float) -> object:
        assert self.driver is not None
        handle = self.memory[uid][0] if uid in self.memory else self.driver.owned(uid)
        return None if handle is None else await handle.release(grace)

    async def _release_again(self, uid: str, before: int) -> object:
        """Release an older handle than the last one: its first release was not answered."""
        claimed = [handle for handle in self._claimed.get(uid, ()) if handle.pod_index == self.index]
        return await claimed[-1 - before].release() if len(claimed) > before else None

    async def _set(self, uid: str, pod: int) -> object:
        """Force a link; if it is not known whether that was done, the uid is not owned."""
        assert self.driver is not None
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

    async def _take_ballast(self, count: int) -> object:
        """Claim uids that nobody asks for, so that it takes long to look at all."""
        assert self.driver is not None
        for number in range(0, count, 50):
            some = range(number, min(number + 50, count))
            await asyncio.gather(*(self.driver.claim(f"ballast {each}") for each in some), return_exceptions=True)
        return count

    async def _check_reclaimed(self, uids: list[int]) -> object:
        """See that uids whose part of the store answers are owned again, whatever the others do; nobody took them."""
        driver = self.driver
        if driver is not None and driver.healthy:
            for uid in (f"u{number}" for number in uids):
                if driver.owned(uid) is None:
                    what = f"{self.name} does not claim {uid} again, though the store is there"
                    self.judge.violate("what was lost is claimed again", what)
        return "checked"

    async def _drain(self) -> object:
        assert self.driver is not None
        self.states += 1
        self._drained = True
        await self.driver.drain()
        return "drained"

    def _check_believed(self, handle: Ownership) -> None:
        """See that who was told that another pod has the uid does not own it by an older claim."""
        mine = self.driver.owned(handle.uid) if self.driver is not None else None
        if mine is not None and handle.pod_index not in {None, self.index} and (mine.epoch or 0) < (handle.epoch or 0):
            self.judge.violate("an answer is believed", f"{self.name} is told {handle!r}, and has {mine!r}")

    async def _set_state(self, state: RoutingState) -> None:
        driver = self.driver
        assert driver is not None
        self.states += 1
        number = self.states
        if state is RoutingState.SHUTDOWN:
            self.leaving = True
            self.left_waiting |= is_waiting(driver)
        await driver.set_routing_state(state)
        if number == self.states and not driver.stopped and driver.incarnation and not is_waiting(driver):
            self.check_state(state, "set_routing_state returned")

    def check_state(self, state: RoutingState, when: str) -> None:
        """See that the store has the routing state of this pod."""
        driver = self.driver
        judge = self.judge
        if driver is None or judge.loop.now < judge.lost_until + judge.bound_of_loss * (judge.lost_until > 0):
            return
        table = judge.server.apply("read_pods", self.config.namespace, SERVICE)
        life = PodLife(self.index, driver.incarnation)
        # A life that waits for an older one says no goodbye, or its successor would not wait.
        waits = self.left_waiting or is_waiting(driver)
        accepted = {state, RoutingState.DENY_NEW_CALL} if waits else {state}
        for pod in table.pods:
            if pod.life == life and not pod.dead and pod.report.routing_state not in accepted:
                text = f"{when}: {self.name} is {pod.report.routing_state} in the store, not {state}"
                judge.violate("a routing state is in the store", text)

    def stop(self) -> None:
        """Stop the driver, as SIGTERM makes it."""
        if not self.leaving or not self.over:
            self.leaving = True
            self.machine.spawn(self._stop())

    def _check_released(self, owned: list[Ownership]) -> None:
        """See that a drain with time enough has released what was owned."""
        for handle in owned:
            link = self.judge.link(handle.uid)
            if link is not None and link.epoch == handle.epoch and link.kind is LinkKind.PERSISTENT:
                self.judge.violate("a pod that leaves releases", f"{self.name} has stopped, and has {link} still")

    async def _stop(self) -> None:
        judge, driver = self.judge, self.driver
        if driver is None:
            return
        judge.trace.note(self.name, "stops")
        began, stalled = self.machine.loop.now, self.machine.stalled_for
        self.left_waiting |= is_waiting(driver)
        waiting = self.left_waiting
        owned = [handle for uid in judge.uids if (handle := driver.owned(uid)) is not None]
        await driver.stop()
        before = began - 4 * self.config.call_deadline_seconds  # the pipe waits to connect again
        troubled = judge.troubled.get(self.name, 0.0) >= before or judge.server.refuses or judge.lost_until > 0
        self.stopped_well = self.started and not (
            waiting or troubled or self.config.call_deadline_seconds < judge.slowest
        )
        took = self.machine.loop.now - began - (self.machine.stalled_for - stalled)
        newest = judge.newest.get(self.index)
        superseded = newest is not None and newest[1] is not self.machine
        # What a drain before could not hand off in time is not handed off again.
        if self.stopped_well and not (superseded or self._drained) and took < self.config.drain_deadline:
            self._check_released(owned)
        self.longest["stop"] = max(took, self.longest.get("stop", 0.0))
        judge.trace.note(self.name, "has stopped", f"after {took:.3f} s")
        bound = max(self.config.drain_deadline, self.config.stop_deadline) + self.config.stop_deadline
        bound += 0.2 + self.config.call_deadline_seconds + 0.02  # a load source, and a hand-off that ends
        if took > bound:
            judge.violate(
                "every call ends in time", f"{self.name} stop() took {took:.3f} s: {bound:.3f} s is its bound"
            )
        await self.store.aclose()
        self.over, self.stopped_at = True, self.machine.loop.now


class ClientProcess(Process):
    """A gateway: it asks for the pod of a uid and goes there."""

    def __init__(self, *args: Any) -> None:
        """Make a gateway, and start it."""
        super().__init__(*args)
        self.driver = ClientDriver(self.store, self.config, clock=self.machine, random=self.random)
        self.reach: Callable[[ClientProcess, int, str], Awaitable[tuple[str, int | None]]] = _nowhere
        self.machine.spawn(self._start())

    def must_be_answered(self, began: float) -> bool:
        """Whether nothing was wrong that would explain an error of the store."""
        judge, deadline = self.judge, self.config.call_deadline_seconds
        troubled = judge.away.get(self.name, 0.0) + 6 * deadline
        return troubled < began and 4 * judge.slowest < deadline and not self.machine.slowness and self.driver.running

    async def _start(self) -> None:
        await self.driver.start()

    @property
    def usable(self) -> bool:
        """Whether calls make sense now."""
        return self.machine.alive and self.driver.running

    async def act(self, kind: str, args: dict[str, Any]) -> object:
        """Do what an action says."""
        driver, uids = self.driver, self.judge.uids
        self.judge.called(self.name)
        uid = f"u{args.get('uid', 0)}"
        pod: int = args.get("pod", 0)
        work: dict[str, Callable[[], Coroutine[Any, Any, object]]] = {
            "request": lambda: self.request(uid),
            "compute": lambda: self.compute(uid),
            "batch_compute": lambda: driver.batch_compute_linked_pod("", uids, SERVICE),
            "batch_get": lambda: driver.batch_get_linked_pod("", uids, SERVICE),
            "get": lambda: driver.get_linked_pod("", uid, SERVICE),
            "set_if_absent": lambda: self._set_if_absent(uid, pod),
            "report": lambda: self._report(pod),
            "pods": lambda: driver.pods("", SERVICE),
        }
        return await work[kind]()

    async def _set_if_absent(self, uid: str, pod: int) -> object:
        with noting_requests():
            return await self.driver.set_linked_pod_if_absent("", uid, SERVICE, pod)

    async def _report(self, pod: int) -> object:
        await self.driver.report_unreachable("", SERVICE, pod)
        return "reported"

    async def compute(self, uid: str) -> int:
        """Return the pod of a uid."""
        cached = self.driver.peek("", uid, SERVICE)
        if cached is not None:
            self.judge.cached(self.name, uid, cached)
            return cached
        return await self.driver.compute_linked_pod("", uid, SERVICE)

    async def request(self, uid: str) -> object:
        """Route a request, and go where it leads, a few times."""
        went = []
        for _ in range(4):
            pod = await self.compute(uid)
            what, _ = await self.reach(self, pod, uid)
            went.append((pod, what))
            if what == "served":
                break
            if what == "unreachable":
                await self.driver.report_unreachable("", SERVICE, pod)
            else:
                await self.driver.cache_expired("", uid, SERVICE)
            await asyncio.sleep(0.01 * self.random.random())
        return went


async def _nowhere(client: ClientProcess, pod: int, uid: str) -> tuple[str, int | None]:
    del client, pod, uid
    return "unreachable", None
