"""Pods and clients of both releases, by the drivers: placed, taken over, drained and ordered across."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import time
from typing import TYPE_CHECKING, Any

import attrs

from tools.side_by_side.processes import GoneError, Member, Trial, must

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tools.side_by_side.releases import Release

_SERVED_WITHIN = 10.0
_TRIED_EACH = 0.02
_HEARD_WITHIN = 2.0
_LOOPS = 3
_MISDIRECTED = 0.1
"""Share of the requests that are made at any pod before they are made at the right one."""


@attrs.define(eq=False)
class Drivers(Trial):
    """Requests all the time, each to the pod that a client of either names, while pods come, are killed and drained."""

    _callers: list[Member] = attrs.field(factory=list, init=False)
    _pods: dict[int, Member] = attrs.field(factory=dict, init=False)
    _uids: list[str] = attrs.field(factory=list, init=False)
    _epochs: dict[str, int] = attrs.field(factory=dict, init=False)
    _spans: list[list[Any]] = attrs.field(factory=list, init=False)
    _requests: int = attrs.field(default=0, init=False)
    _longest: float = attrs.field(default=0.0, init=False)

    async def run(self) -> None:
        """Go through all steps."""
        await self._begins()
        traffic = [asyncio.create_task(self._traffic()) for _ in range(_LOOPS)]
        try:
            for step in (self._upgrade, self._announced, self._histories, self._orders, self._takeovers, self._drains):
                steps = asyncio.create_task(step())
                await asyncio.wait({steps, *traffic}, return_when=asyncio.FIRST_COMPLETED)
                for task in traffic:
                    if task.done():
                        task.result()  # a request failed
                await steps
        finally:
            for task in traffic:
                task.cancel()
            await asyncio.wait(traffic)
        await self._one_owner()

    # --- steps

    async def _begins(self) -> None:
        """Two pods and a client of the older release, and a client of the newer one."""
        for _ in range(2):
            await self._start(self.older, pod=True)
        self._callers = [await self._start(self.older), await self._start(self.newer)]
        self._uids = [f"first-{number}" for number in range(60)]
        await self._serve(self._callers[0], self._uids)
        self.say(f"{len(self._uids)} uids at two pods of {self.older.name}")

    async def _upgrade(self) -> None:
        """Two pods of the newer release come: clients of both place on pods of both, and find the same."""
        await asyncio.sleep(1.0)  # some heartbeats: what the first client has placed is in what the pods report
        for _ in range(2):
            await self._start(self.newer, pod=True)
        for caller in self._callers:
            uids = [f"of-{caller.is_newer}-{number}" for number in range(120)]
            placed = await self._serve(caller, uids)
            self._uids += uids
            by_release = collections.Counter(self._pods[index].release.name for index in placed.values())
            must(len(by_release) == 2, f"a client of {caller.release.name} placed on {dict(by_release)}")  # noqa: PLR2004 - both
            self.say(f"a client of {caller.release.name} placed {dict(by_release)}")
        found = [await caller.ask("find", self._uids) for caller in self._callers]
        must(found[0] == found[1], "the clients do not find the same")
        must(len(found[0]) == len(self._uids), "uids are lost")
        services = [await caller.ask("services", self._uids[0]) for caller in self._callers]
        must(services[0] == services[1] == {"room": found[0][self._uids[0]]}, f"services are {services}")

    async def _announced(self) -> None:
        """What a pod of either release gives up is dropped from the caches of both clients, as they hear of it."""
        uids = [f"quiet-{number}" for number in range(20)]
        for caller in self._callers:
            await self._serve(caller, uids)
        found = await self._callers[0].ask("find", uids)
        cached = [await caller.ask("peek", uids) for caller in self._callers]
        must(cached == [found, found], f"cached is {cached}, and not {found}")
        for uid, index in found.items():
            await self._pods[index].ask("release", uid)
        ends = time.monotonic() + _HEARD_WITHIN
        while any(cached := [await caller.ask("peek", uids) for caller in self._callers]):
            must(time.monotonic() < ends, f"released, and still cached: {cached}")
        by_release = collections.Counter(self._pods[index].release.name for index in found.values())
        self.say(f"released by {dict(by_release)}: heard by the clients of both")

    async def _histories(self) -> None:
        """What the newer release has changed is in the histories, in order; what the older one has, is missing."""
        caller = self._callers[1]
        told = await caller.ask("histories", self._uids)
        _in_order(told)
        found = await caller.ask("find", self._uids)
        ours = {uid: index for uid, index in found.items() if self._pods[index].is_newer}
        must(all(told[uid] and told[uid][-1][2] == index for uid, index in ours.items()), "a history ends wrongly")
        events = sum(map(len, told.values()))
        self.say(f"histories: {events} changes by {self.newer.name}, those by {self.older.name} are missing")

    async def _orders(self) -> None:
        """Operators see the pods of both; one of the older release does nothing that it does not understand."""
        caller = self._callers[1]
        seen = await caller.ask("seen")
        must(set(seen.values()) == {"READY"} and len(seen) == len(self._pods), f"an operator sees {seen}")
        found = await caller.ask("find", self._uids)
        older, newer = self._of(newer=False), self._of(newer=True)
        uid = next(uid for uid, index in found.items() if self._pods[index] in older)
        epoch = await self._pods[found[uid]].ask("serve", [uid])
        for order in (("move", uid, newer[0].pod_index), ("drain", older[0].pod_index)):
            answer = await caller.ask("order", *order, within=0.7)
            must(answer in {"not_answering", "done"}, f"{order[0]} of {self.older.name}: {answer}")
            self.say(f"{order[0]}, asked of a pod of {self.older.name}: {answer}")
        if answer == "not_answering":
            must(epoch == await self._pods[found[uid]].ask("serve", [uid]), f"{uid} has moved all the same")
        uid = next(uid for uid, index in found.items() if self._pods[index] in newer)
        answer = await caller.ask("order", "move", uid, older[1].pod_index, within=5.0)
        must(answer == "done", f"a move to a pod of {self.older.name}: {answer}")
        must((await self._served(self._callers[0], uid))[0] == older[1].pod_index, f"{uid} is not where it was moved")
        self.say(f"move, asked of a pod of {self.newer.name}, to one of {self.older.name}: done")

    async def _takeovers(self) -> None:
        """A pod of each release is killed: clients of both take its uids over, at a higher epoch."""
        for newer in (False, True):
            victim = self._of(newer=newer)[0]
            found = await self._callers[0].ask("find", self._uids)
            lost = [uid for uid, index in found.items() if index == victim.pod_index]
            self._spans += await victim.ask("noted")
            before = {uid: self._epochs[uid] for uid in lost}
            self._forget(victim)
            await victim.kill()
            parts = lost[::2], lost[1::2]
            served = await asyncio.gather(
                *(self._serve(caller, part) for caller, part in zip(self._callers, parts, strict=True))
            )
            must(all(self._epochs[uid] > before[uid] for uid in lost), "an epoch has not risen")
            to = collections.Counter(self._pods[index].release.name for part in served for index in part.values())
            self.say(f"a pod of {victim.release.name} was killed: its {len(lost)} uids went to {dict(to)}")

    async def _drains(self) -> None:
        """The upgrade ends, and is taken back: all pods of one release are drained to those of the other, and back."""
        for leaving, coming, newer in ((self.older, self.newer, False), (self.newer, self.older, True)):
            for _ in range(2):
                await self._start(coming, pod=True)
            for pod in self._of(newer=newer):
                await self._drained(pod)
            served = await self._serve(self._callers[newer], self._uids)
            to = collections.Counter(self._pods[index].release.name for index in served.values())
            must(set(to) == {coming.name}, f"after the drain of {leaving.name} uids are at {dict(to)}")
            self.say(f"all pods of {leaving.name} were drained: {dict(to)}")
        _in_order(await self._callers[1].ask("histories", self._uids))

    async def _drained(self, pod: Member) -> None:
        found = await self._callers[0].ask("find", self._uids)
        its = {uid for uid, index in found.items() if index == pod.pod_index}
        await pod.ask("drain")
        missing = its - set(pod.handed_off)
        must(not missing, f"{pod.release.name} handed off all but {sorted(missing)[:5]}")
        self._spans += await pod.ask("noted")
        self._forget(pod)
        await pod.close()

    async def _one_owner(self) -> None:
        """At no moment had a uid two owners, and no two lives had it at one epoch."""
        for pod in self._pods.values():
            self._spans += await pod.ask("noted")
        by_uid: dict[str, list[list[Any]]] = collections.defaultdict(list)
        for span in self._spans:
            by_uid[span[0]].append(span)
        for uid, spans in by_uid.items():
            spans.sort(key=lambda span: (span[1], span[2]))
            for earlier, later in itertools.pairwise(spans):
                must(earlier[1] < later[1], f"{uid} had two owners at epoch {later[1]}")
                overlap = earlier[3] - later[2]
                must(overlap < 0, f"{uid} had two owners for {overlap * 1000:.1f} ms: epochs {earlier[1]}, {later[1]}")
        must(set(by_uid) >= set(self._uids), "uids were never owned")
        self.say(
            f"{self._requests} requests for {len(self._uids)} uids, the longest {self._longest:.2f} s, none failed; "
            f"{len(self._spans)} ownerships, never two of a uid at once"
        )

    # --- requests

    async def _traffic(self) -> None:
        while True:
            uid = self.random.choice(self._uids)
            if self.random.random() < _MISDIRECTED:
                await self._misdirected(uid)
            await self._served(self.random.choice(self._callers), uid)
            await asyncio.sleep(0)  # steps have their turn

    async def _misdirected(self, uid: str) -> None:
        """Ask any pod, as who goes by what is old does: if it is another's, it must not become an owner beside that."""
        with contextlib.suppress(GoneError):
            await self.random.choice(list(self._pods.values())).ask("serve", [uid])

    async def _serve(self, caller: Member, uids: Iterable[str]) -> dict[str, int]:
        return {uid: (await self._served(caller, uid))[0] for uid in uids}

    async def _served(self, caller: Member, uid: str) -> tuple[int, int]:
        """Do a request as a gateway does: ask where the uid is, and there; again while it is on its way."""
        began = time.monotonic()
        while True:
            with contextlib.suppress(GoneError):
                index = (await caller.ask("route_to", [uid]))[uid]
                pod = self._pods.get(index)
                epoch = (await pod.ask("serve", [uid]))[uid] if pod else None
                if epoch is not None:
                    break
            waited = time.monotonic() - began
            must(waited < _SERVED_WITHIN, f"a request of {uid}, by {caller.release.name}, was not served")
            await asyncio.sleep(_TRIED_EACH)  # as a client that is told to come again
        self._epochs[uid] = max(epoch, self._epochs.get(uid, 0))
        self._requests += 1
        self._longest = max(self._longest, time.monotonic() - began)
        return index, epoch

    # --- members

    async def _start(self, release: Release, *, pod: bool = False) -> Member:
        newer = release is self.newer
        member = await Member.start(release, self.url, self.folder / "drivers.log", is_newer=newer, pod=pod)
        self.begun.append(member)
        if member.pod_index is not None:
            self._pods[member.pod_index] = member
        return member

    def _of(self, *, newer: bool) -> list[Member]:
        return [pod for pod in self._pods.values() if pod.is_newer == newer]

    def _forget(self, pod: Member) -> None:
        self._pods = {index: each for index, each in self._pods.items() if each is not pod}


def _in_order(told: dict[str, list[list[Any]]]) -> None:
    for uid, events in told.items():
        epochs = [epoch for *_, epoch in events if epoch is not None]
        must(epochs == sorted(epochs), f"the history of {uid} is not in order: {events}")
