"""How soon the simulator finds slips in the drivers: ``python tests/simulation/mutants.py [--seeds N] [NAME ...]``.

Each mutation is a slip that somebody could make: a text of the package that is replaced, in a copy of it. For each the
simulator says which seed was the first to find it, and after how many seconds. Not a test: it takes its time.
"""

# ruff: noqa: E501 - texts of the package, as they are
from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs

PACKAGE = Path(__file__).parents[2] / "stateful_route"


@attrs.frozen
class Mutation:
    """One slip: ``old`` is ``new`` in a file of the package; with ``every`` more than once; and so is what is ``also``."""

    name: str
    file: str
    old: str
    new: str
    every: bool = False
    also: tuple[tuple[str, str], ...] = ()

    def apply(self, package: Path) -> None:
        """Change a copy of the package."""
        path = package / self.file
        text = path.read_text(encoding="utf-8")
        found = text.count(self.old)
        if not (found == 1 or (found and self.every)):
            raise ValueError(f"{self.name}: {self.file} has that text {found} times")
        text = text.replace(self.old, self.new)
        for old, new in self.also:
            if text.count(old) != 1:
                raise ValueError(f"{self.name}: {self.file} has {old!r} {text.count(old)} times")
            text = text.replace(old, new)
        path.write_text(text, encoding="utf-8")


LEASE, OWNED, OWNERSHIP = "server/life/lease.py", "server/owning/owned_uids.py", "server/owning/ownership.py"
HEARTBEATS, OPERATIONS, RECLAIM = "server/life/heartbeats.py", "server/owning/operations.py", "server/owning/reclaim.py"
INVALIDATIONS, CHECKS, HAND_OVER = (
    "server/owning/invalidations.py",
    "server/owning/link_checks.py",
    "server/departure/hand_over.py",
)
TRAVEL, STAGING, ARRIVALS = "server/departure/travel.py", "server/owning/staging.py", "server/departure/arrivals.py"
DRIVER, ENDING, TURNS = "server/driver.py", "server/life/ending.py", "server/owning/turns.py"
CACHE, RESOLVER, SERVICE = "client/cache/links.py", "client/resolver.py", "client/pods/service.py"
PLACER, READER, SUSPICION = "client/placer.py", "client/pods/reader.py", "client/pods/suspicion.py"
DIRECTORY, COHERENCE, SINGLE_FLIGHT = "client/pods/directory.py", "client/coherence.py", "_single_flight.py"
LINKS, PODS = "testing/memory/links.py", "testing/memory/pods.py"  # as the scripts do it

REVERTS = [
    Mutation("r14 an answer overtaken by an invalidation counts", OPERATIONS, "<= turn.invalidated", "<= -1"),
    Mutation(
        "r02 a forced write does not settle a release",
        OPERATIONS,
        "as turn:\n            await self._settle_releases(uid)\n            if uid",
        "as turn:\n            if uid",
    ),
    Mutation(
        "r02 a claim does not settle a release",
        OPERATIONS,
        "            if uid in self.owned.unsure:\n                await self._settle_releases(uid)\n",
        "",
    ),
    Mutation(
        "r03 to remove drops the handle after the answer",
        OPERATIONS,
        "            if handle is not None:\n                self.owned.forget(uid, spare=grace > 0)\n                owner, epoch",
        "            if handle is not None:\n                owner, epoch",
    ),
    Mutation(
        "r03 to give drops the handle after the answer",
        OPERATIONS,
        "            self.owned.forget(uid)\n            return await operation()",
        "            answer = await operation()\n            self.owned.forget(uid)\n            return answer",
    ),
    Mutation(
        "r01 an earlier answer ends the parting",
        HEARTBEATS,
        "        if lease.ended:  # meanwhile: the last heartbeat is still to come\n",
        "        if lease.ended:\n            self._parting = False\n",
    ),
    Mutation(
        "r17 a late registration counts",
        HEARTBEATS,
        "self._register_once(None if lease.pod_index is None else self._expected, can_wait=can_wait)",
        "self._register_once(None, can_wait=can_wait)",
        also=(("if there.own or not self._is_older_than(there):", "if False:"),),
    ),
    Mutation(
        "r04 calls have no deadline of their own for the turn",
        OPERATIONS,
        'async with within(self._deadline, "claim", since=began), turn:\n',
        "async with turn:\n",
    ),
]

SLIPS = [
    # the life of a pod
    Mutation(
        "the lease counts from the answer",
        LEASE,
        "            self._good_until = sent + self._seconds - _MARGIN\n",
        "            self._good_until = self.clock() + self._seconds - _MARGIN\n",
    ),
    Mutation("a pod does not fence itself", LEASE, " <= now < self._good_until", " <= now"),
    Mutation("a handle outlives the life", LEASE, "return incarnation == self.incarnation and ", "return "),
    Mutation(
        "a new life does not wait",
        HEARTBEATS,
        "0.0 if self._exclusive else began.previous_left",
        "0.0",
    ),
    Mutation(
        "a waiting life says goodbye",
        HEARTBEATS,
        "if self._lease.waiting:  # who comes next",
        "if False:  # who comes next",
    ),
    Mutation(
        "superseded, and it goes on",
        HEARTBEATS,
        "            else:\n                self._supersede()\n        elif",
        "        elif",
    ),
    Mutation(
        "all may be resumed",
        LEASE,
        "return incarnation in self._unbroken and self.clock() < self._resumes_until",
        "return True",
    ),
    Mutation(
        "a lost life is not reclaimed",
        HEARTBEATS,
        "        self._owned.leave_behind()\n",
        "",
    ),
    Mutation(
        "who was taken for dead goes on",
        HEARTBEATS,
        "elif outcome is not HeartbeatOutcome.OUTDATED:",
        "elif outcome is HeartbeatOutcome.UNKNOWN:",
    ),
    # handles
    Mutation(
        "release drops the handle after the answer",
        OWNERSHIP,
        "        self.drop()\n        if self._given_up or self.epoch is None or self.of_pod is None:\n            return False\n"
        "        released = await self._operations.release(self, grace)\n",
        "        if self._given_up or self.epoch is None or self.of_pod is None:\n            return False\n"
        "        owned = self._operations.owned\n"
        "        owned.forget = lambda uid, spare=False: None\n"
        "        try:\n            released = await self._operations.release(self, grace)\n"
        "        finally:\n            del owned.forget\n            owned.forget(self.uid)\n",
    ),
    Mutation(
        "a resumed life tells a loss",
        OWNED,
        "            if handle.held and resumed is not None:\n                before.pass_on()\n",
        "",
    ),
    Mutation(
        "who waits for a loss is forgotten by the next life",
        OWNERSHIP,
        "            self.tenure = resumed.tenure\n",
        "            self.tenure = Tenure(operations.owned.pod_lease.clock)\n",
    ),
    Mutation("any memory is good", OWNERSHIP, "return self.continues(older) or (", "return self.held or ("),
    # what a pod owns
    Mutation(
        "verify forgets the epoch",
        OWNED,
        "(self.pod_lease.pod_index, handle.epoch) == (link.pod_index, link.epoch)",
        "self.pod_lease.pod_index == link.pod_index",
    ),
    Mutation(
        "a refused claim keeps the handle",
        OWNED,
        "                before.pass_on()\n            self.forget(uid)\n",
        "                before.pass_on()\n",
    ),
    Mutation(
        "nothing is lost at the end",
        OWNED,
        "            for uid in self.uids:\n                self.forget(uid)\n        self.unsure",
        "            pass\n        self.unsure",
    ),
    Mutation(
        "operations do not wait for their turn",
        TURNS,
        "            await self._lock.acquire()\n",
        "            pass\n",
        also=(("        self._lock.release()\n", ""),),
    ),
    Mutation("a turn stays", TURNS, "        if not self.users:\n            del self._turns[self._uid]\n", ""),
    Mutation(
        "a forced write that failed leaves the handle",
        OPERATIONS,
        "            except BaseException:\n                self.owned.forget(uid)\n                raise\n",
        "            except BaseException:\n                raise\n",
    ),
    Mutation(
        "a release names no epoch",
        OPERATIONS,
        "self._key(uid), pod_index=pod_index, epoch=epoch, grace=grace, announced",
        "self._key(uid), pod_index=pod_index, epoch=None, grace=grace, announced",
    ),
    # events to a pod
    Mutation(
        "a pod that hears again does not look",
        INVALIDATIONS,
        "        if incarnation == self._lease.incarnation:\n            self._checks.doubt(self._owned.uids)\n",
        "",
    ),
    Mutation(
        "a pod does not verify what is announced",
        INVALIDATIONS,
        "                self._checks.doubt([uid])\n",
        "                pass\n",
    ),
    # leaving
    Mutation(
        "released before it is handed off",
        HAND_OVER,
        "        if self._hand_off is not None:\n            state, error",
        "        await handle.release()\n        if self._hand_off is not None:\n            state, error",
    ),
    Mutation(
        "a drain releases nothing",
        HAND_OVER,
        "        return await departure.handle.release()\n",
        "        return True\n",
    ),
    Mutation(
        "stop says no goodbye",
        ENDING,
        "            await self._heartbeats.say_goodbye()\n        except StoreError as error:",
        "            pass\n        except StoreError as error:",
    ),
    Mutation("a stop leaves the heart beating", DRIVER, "        await self._beating.stop()\n", ""),
    # states that travel
    Mutation("a uid is owned while its state travels", TRAVEL, "        handle.suspend()\n", ""),
    Mutation(
        "who got no answer to a move owns again",
        OPERATIONS,
        "may_have_moved = may_have_moved or error.maybe_applied\n",
        "may_have_moved = False\n",
    ),
    Mutation(
        "whatever was sent is adopted",
        STAGING,
        "                mine = staged.parcel.move == answer.move or staged.committed == link.epoch\n",
        "                mine = True\n",
        also=(("mine = answer.previous is not None and staged.committed == answer.previous.epoch", "mine = True"),),
    ),
    Mutation(
        "it is owned before it is adopted",
        OPERATIONS,
        "            await self.staging.adopt(staged, answer.link.epoch)\n",
        "            self.owned.take_in(self, owner, uid, answer)\n"
        "            await self.staging.adopt(staged, answer.link.epoch)\n",
    ),
    Mutation(
        "a state that comes once more is adopted once more",
        OPERATIONS,
        "        if staged is None or came is None or not self.owned.has_had(uid, came.epoch):\n",
        "        if True:\n",
    ),
    Mutation(
        "who has got a state does not look for its link",
        ARRIVALS,
        '            self._tasks.start(self._watch(staged), f"look for the link of {staged.parcel.uid!r}")\n',
        "            pass\n",
    ),
    # a leased index
    Mutation(
        "an index of a life that may own is leased",
        PODS,
        "return (pod.dead or pod.said_goodbye) and pod.free_ms <= now.ms",
        "return pod.ends_ms - now.ms < 0.8 * pod.lease_ms",
    ),
    Mutation(
        "who has lost its index keeps its uids",
        HEARTBEATS,
        "        self._lease.leave_index()\n        self._owned.lose_all()\n",
        "        self._lease.leave_index()\n",
    ),
    Mutation(
        "who has lost its index takes it back",
        HEARTBEATS,
        "            if lease.is_leased and not there.own:\n                self._leave_index()\n                await self._begin_life()\n            elif there",
        "            if there",
    ),
    # the cache
    Mutation(
        "an answer that was overtaken is cached",
        CACHE,
        "(may_be_stale and overtaken.has(uid, epoch, asked_at))",
        "False",
    ),
    Mutation(
        "an entry of that epoch stays",
        CACHE,
        "(entry >> _EPOCH & _EPOCH_MASK) <= epoch:",
        "(entry >> _EPOCH & _EPOCH_MASK) < epoch:",
    ),
    Mutation(
        "an entry outlives its link",
        CACHE,
        "lasting = ttl - margin\n",
        "lasting = longest\n",
    ),
    Mutation(
        "a placement is in flight for ever",
        RESOLVER,
        "        placing.end(flight, link)\n",
        "",
    ),
    Mutation(
        "the answers to one question are mixed up",
        PLACER,
        "in zip(futures, outcomes, strict=True)",
        "in zip(futures, reversed(outcomes), strict=True)",
    ),
    Mutation(
        "a caller that is gone takes the others along",
        PLACER,
        "            if future.done():\n                continue\n",
        "            if future.done():\n                return\n",
    ),
    Mutation(
        "dead owners are not named",
        PLACER,
        "dead=service.suspicion.dead.named,",
        "dead=(),",
        every=True,
    ),
    Mutation(
        "nobody looks whether an owner is dead",
        RESOLVER,
        "placed[1].trusted",
        "True",
    ),
    # hearing
    Mutation(
        "what is cached stays when it hears again",
        COHERENCE,
        "        self._service.links.flush()\n        self._serve()\n",
        "        self._serve()\n",
    ),
    Mutation(
        "a deaf client serves what is cached",
        COHERENCE,
        "            self._listening = False\n            self.listening_since = math.inf\n",
        "            self.listening_since = math.inf\n",
    ),
    Mutation(
        "a degraded client stays so",
        COHERENCE,
        "            self._service.store_away = False\n            self._end_degraded()",
        "            self._service.store_away = False",
    ),
    Mutation("the grace has no end", COHERENCE, "return self._clock() - self._deaf_since < self._grace", "return True"),
    Mutation(
        "link invalidations are not taken in",
        DIRECTORY,
        "                service.links.invalidate(key.uid, event.epoch)\n",
        "                pass\n",
    ),
    # the table
    Mutation(
        "what has died is available",
        SERVICE,
        "pod.available = alive and routing_state is not RoutingState.SHUTDOWN",
        "pod.available = routing_state is not RoutingState.SHUTDOWN",
    ),
    Mutation(
        "no lease ends",
        SERVICE,
        "alive = state.report.routing_state, not (state.dead or overdue)",
        "alive = state.report.routing_state, not state.dead",
    ),
    Mutation(
        "nothing can be confirmed", SUSPICION, "            for pod in self.suspects\n", "            for pod in ()\n"
    ),
    Mutation(
        "a pod that leaves gets new uids",
        SERVICE,
        "if alive and routing_state is RoutingState.READY else None",
        "if alive else None",
    ),
    # flights
    Mutation(
        "a failed flight is not told",
        SINGLE_FLIGHT,
        "            for _, future in self._end(key):\n                future.set_exception(error)\n            return\n",
        "            self._end(key)\n            return\n",
    ),
    Mutation(
        "a cancelled flight cancels all",
        SINGLE_FLIGHT,
        "            future.set_exception(_AbandonedError(error))\n",
        "            future.cancel()\n",
    ),
    Mutation(
        "who is abandoned does not ask again",
        SINGLE_FLIGHT,
        "            if now() >= began + self._seconds:\n",
        "            if True:\n",
    ),
    # what was mended last
    Mutation(
        "a reclaim stops at the first error, in a fixed order",
        RECLAIM,
        "        self._random.shuffle(uids)\n        waiting = deque(sorted(uids, key=self._unclaimed.__contains__))\n"
        "        self._unclaimed.clear()\n        failed: list[StoreError] = []\n        claimed = 0\n\n"
        "        async def work() -> None:\n            nonlocal claimed\n            while waiting and (",
        "        waiting = deque(uids)\n        failed: list[StoreError] = []\n        claimed = 0\n\n"
        "        async def work() -> None:\n            nonlocal claimed\n            while waiting and not failed and (",
    ),
    Mutation(
        "a reclaim that failed counts as done",
        RECLAIM,
        "                if failure is not None and not self._answered:\n",
        "                self._owned.stale.clear()\n                if False:\n",
    ),
    Mutation(
        "what is left behind in an older life is not claimed again",
        OWNED,
        "            self.stale[uid] = None\n",
        "            pass\n",
    ),
    Mutation(
        "the mark of an older tenure outlives a claim",
        LINKS,
        "        if change.outcome in _TOLD:\n            self._mark_begun(key, last, decision[1], now)\n",
        "",
    ),
    Mutation(
        "a second loss of the store is taken for the first",
        LEASE,
        "        # Of a life before this one nothing can be said any more: what the store told of tenures since is lost as well.\n"
        "        self._unbroken.clear()\n",
        "",
    ),
    Mutation(
        "a link that was given up and rolled back goes on",
        OWNED,
        "return answer.outcome in _GOES_ON and",
        "return False and",
    ),
    Mutation(
        "a pod that departs flushes nothing",
        SUSPICION,
        "departed, self._departed = self._departed, []",
        "departed, self._departed = [], []",
    ),
    Mutation("an answer from before a departure is cached", CACHE, "asked_at < pod.kept_from or (", "("),
    Mutation(
        "a link of an older life is cached",
        CACHE,
        "if link.incarnation < pod.incarnation:",
        "if False:",
    ),
    Mutation("a life that has ended resumes", OWNED, "            and self.pod_lease.owns(owner.incarnation)\n", ""),
    Mutation(
        "what is not owned is handed off",
        HAND_OVER,
        "            if not leaving or self._keeps:\n                return State.STAYS\n"
        "            return State.GONE if await self._release(departure) and self._releases else State.LOST\n",
        "            pass\n",
    ),
    Mutation("a mark counts over an interruption", OWNERSHIP, " and self._heard == older._heard", ""),
    Mutation(
        "nobody looks after what is held",
        CHECKS,
        "        await self.look_at(some)\n",
        "",
    ),
    Mutation("answers in flight survive a deaf period", OPERATIONS, "        self._turns.invalidate_all()\n", ""),
    Mutation(
        "a late registration of its own ends a process",
        HEARTBEATS,
        "if there.own or not self._is_older_than(there):",
        "if False:",
    ),
    Mutation(
        "entries from the future stay",
        PODS,
        "if known is None or known.at_ms <= now.ms:\n            return known\n",
        "if True:\n            return known\n",
    ),
    # a death that is proven
    Mutation(
        "a proof ends the life that the pod has by then",
        PODS,
        "known is None or known.incarnation != life.incarnation or known.dead or",
        "known is None or known.dead or",
    ),
    Mutation(
        "a life is ended beside the lease of an older one",
        PODS,
        "        if known.free_ms > now.ms:\n            return False, False\n",
        "",
    ),
    Mutation(
        "a life is said to be ended, and is not",
        PODS,
        "self._change(life.pod_index, attrs.evolve(known, dead=True), now)",
        "self._change(life.pod_index, known, now)",
    ),
    Mutation(
        "who is ended keeps its uids",
        HEARTBEATS,
        "        self._parting = False\n        self._end(ENDED)\n",
        "        self._parting = False\n",
    ),
    Mutation(
        "a death is confirmed beside the lease of an older life",
        PODS,
        "max(self.at_ms + self.lease_ms, self.free_ms) - now.ms",
        "self.at_ms + self.lease_ms - now.ms",
    ),
    Mutation(
        "a link of a newer life than the dead one is not taken over",
        READER,
        " or (pod.state.dead and pod.state.incarnation < life.incarnation)",
        "",
    ),
]


def run(mutation: Mutation, seeds: int) -> str:
    """Return a line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE, Path(folder) / "stateful_route", ignore=shutil.ignore_patterns("__pycache__"))
        try:
            mutation.apply(Path(folder) / "stateful_route")
        except ValueError as error:
            return f"| {mutation.name} | - | - | CANNOT BE APPLIED: {error} |"
        command = [sys.executable, "-m", "tools.simulation", "--seeds", str(seeds)]
        with (Path(folder) / "out").open("w+", encoding="utf-8") as out:
            environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{PACKAGE.parent}"}
            process = subprocess.Popen(command, env=environment, cwd=folder, stdout=out, stderr=out)
            _, _, used = os.wait4(process.pid, 0)
            out.seek(0)
            text = out.read()
        summary = re.search(r"^(\d+) seeds, \d+ steps in ", text, re.MULTILINE)
        if summary is None:
            return f"| {mutation.name} | - | - | CRASHED: {text.strip().splitlines()[-1:]} |"
        found = re.search(r"^seed \d+: (.*?) at ", text, re.MULTILINE)
        what = found[1] if found else "NOT FOUND"
        return f"| {mutation.name} | {summary[1]} | {used.ru_utime + used.ru_stime:.1f} | {what} |"


def main() -> int:
    """Run the mutations that are asked for, and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="parts of the names of those to run; all by default")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many seeds at most (default: 10000)")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (default: 2)")
    options = parser.parse_args()
    wanted = [
        mutation
        for mutation in REVERTS + SLIPS
        if not options.names or any(name in mutation.name for name in options.names)
    ]
    sys.stdout.write("| mutation | seeds | CPU seconds | found by |\n|---|---|---|---|\n")
    failed = False
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for line in pool.map(lambda mutation: run(mutation, options.seeds), wanted):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            failed |= any(word in line for word in ("NOT FOUND", "CANNOT", "CRASHED"))
    return failed


if __name__ == "__main__":
    sys.exit(main())
