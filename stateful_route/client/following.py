"""Tells who holds a long connection that the uid has moved."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from stateful_route._background.tasks import Tasks
from stateful_route._log import log
from stateful_route.client.followed import FollowedLinks, is_other
from stateful_route.errors import LifecycleError, NoRoutablePodError, StoreError
from stateful_route.models import LinkKind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from stateful_route.client.batch_resolver import BatchResolver
    from stateful_route.client.followed import FollowedLink
    from stateful_route.client.pods.directory import PodDirectory
    from stateful_route.client.pods.service import ServicePods
    from stateful_route.client.resolver import Resolver
    from stateful_route.models import Link

# Uids in one question, and how many are looked at in a period at most, of which nothing was announced.
_SLICE, _MOST = 256, 2048

# Links that are renewed at the same time.
_AT_ONCE = 16

# The share of the time of a temporary link after which somebody looks at the latest.
_OFTEN = 0.25


class Following:
    """Follows the link of a uid for as long as its block lasts; see ``ServiceView.following``."""

    def __init__(self, followers: Followers, service: ServicePods, uid: str) -> None:
        """Follow nothing yet."""
        self._followers = followers
        self._service = service
        self._uid = uid
        self._followed: FollowedLink | None = None
        self._link: Link | None = None

    def __repr__(self) -> str:
        return f"<Following of {self._uid!r}: {self._link}>"

    @property
    def link(self) -> Link | None:
        """The link that was there when the block began, or that ``moved`` returned last; ``None`` for none."""
        return self._link

    async def __aenter__(self) -> Self:
        """Begin to follow the link as it is now, from the cache or from the store.

        Raises:
            LifecycleError: if it was entered before.
            StoreError: if the store did not answer, and nothing is cached that may be used.

        """
        if self._followed is not None:
            raise LifecycleError("this block was entered before: ask for another one")
        self._followed = await self._followers.begin(self._service, self._uid)
        self._link = self._followed.link
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Follow it no more."""
        if self._followed is not None:
            self._followers.end(self._service, self._followed)

    async def moved(self) -> Link | None:
        """Wait until the owner or the epoch of the link is another than that of ``link``; return the new one.

        ``None`` if the uid has none any more: it was released, say, and nobody has asked for it since; who calls again
        then waits for the next owner. While its pod drains, or nothing can be heard, it takes up to a ``refresh`` to
        notice. Another life of the same pod that resumes the uid gives it another epoch, too.

        Raises:
            LifecycleError: outside the block, and once the driver stops.

        """
        followed = self._followed
        if followed is None or not followed.followers:
            raise LifecycleError("a link is followed inside its block only")
        while not is_other(self._link, followed.link):
            await self._followers.change_of(followed)
        self._link = followed.link
        return self._link


class Followers:
    """Looks at the links that are followed, once for all who follow one, and renews those that are temporary."""

    def __init__(
        self,
        directory: PodDirectory,
        resolver: Resolver,
        batches: BatchResolver,
        *,
        refresh: float,
        link_ttl: float,
        clock: Callable[[], float],
    ) -> None:
        """Follow nothing. A link of which nobody says a word is looked at each ``refresh`` seconds."""
        self._directory = directory
        self._resolver = resolver
        self._batches = batches
        self._period = min(refresh, _OFTEN * link_ttl)
        self._clock = clock
        self._services: dict[ServicePods, FollowedLinks] = {}
        self._looking: dict[FollowedLinks, asyncio.Lock] = {}
        self._tasks = Tasks()
        self._periodic = False
        self._stopped = False
        directory.on_invalidated = self.heard

    def __len__(self) -> int:
        return sum(len(each.links) for each in self._services.values())

    def following(self, service: ServicePods, uid: str) -> Following:
        """Return a block that follows the link of a uid."""
        return Following(self, service, uid)

    async def begin(self, service: ServicePods, uid: str) -> FollowedLink:
        """Follow the link of a uid, as it is in the cache or in the store now.

        Raises:
            StoreError: if the store did not answer, and nothing is cached that may be used.

        """
        self._check_not_stopped()
        each = self._services.get(service)
        if each is None:
            each = self._services[service] = FollowedLinks(service)
            self._looking[each] = asyncio.Lock()
        followed = each.add(uid)  # what is announced from here on is heard
        try:
            if not followed.known:
                link = service.links.link(uid)
                if link is None:
                    link = await self._resolver.find(service, uid)
                if not followed.known:  # or it has changed meanwhile, as was announced
                    each.take(followed, link, self._clock())
        except BaseException:
            self.end(service, followed)
            raise
        if not self._periodic:
            self._periodic = True
            self._tasks.start(self._run(), "looks at what is followed")
        return followed

    def end(self, service: ServicePods, followed: FollowedLink) -> None:
        """Count one less who follows it."""
        each = self._services.get(service)
        if each is None:  # the driver was stopped
            return
        each.remove(followed)
        if not each.links:
            del self._services[service], self._looking[each]

    async def change_of(self, followed: FollowedLink) -> None:
        """Return once a link may have changed.

        Raises:
            LifecycleError: once the driver stops.

        """
        self._check_not_stopped()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        followed.waiting[future] = None
        try:
            await future
        finally:
            followed.waiting.pop(future, None)
        self._check_not_stopped()

    def heard(self, service: ServicePods, uid: str, epoch: int) -> None:
        """Take in that a link was announced to be stale up to that epoch."""
        each = self._services.get(service)
        if each is None:
            return
        looks = bool(each.urgent)
        if each.heard(uid, epoch) and not looks:
            self._tasks.start(self._look_at_urgent(each), f"looks at what has moved in {service.service_name!r}")

    async def look_after(self) -> None:
        """Look at the links of which nobody says a word, and renew the temporary ones."""
        for service, each in tuple(self._services.items()):
            now = self._clock()
            service.reads.last_used = now  # or it would be left, as nobody asks for anything
            each.collect(now)
            left = _MOST
            while left > 0 and (uids := each.next_due(min(left, _SLICE))):
                left -= len(uids)
                if not await self._look(each, uids):
                    break  # the rest the next time

    async def stop(self) -> None:
        """Follow nothing any more: who waits is told that the driver stops."""
        self._stopped = True
        self._directory.on_invalidated = None
        services, self._services = self._services, {}
        self._looking.clear()
        for each in services.values():
            for followed in each.links.values():
                followed.wake()
        await self._tasks.stop()

    def _check_not_stopped(self) -> None:
        if self._stopped:
            raise LifecycleError("the driver stops, or has stopped: it follows no link any more")

    async def _run(self) -> None:
        try:
            while self._services:
                await asyncio.sleep(self._period)
                await self.look_after()
        finally:
            self._periodic = False

    async def _look_at_urgent(self, each: FollowedLinks) -> None:
        while each.urgent:
            lock = self._looking.get(each)
            if lock is None:  # nobody follows any of them any more
                return
            async with lock:
                if uids := each.next_urgent(_SLICE):
                    await self._look_now(each, uids)

    async def _look(self, each: FollowedLinks, uids: Sequence[str]) -> bool:
        """Look at links, one slice after the other: no older answer comes after a newer one."""
        lock = self._looking.get(each)
        if lock is None:
            return False
        async with lock:
            return await self._look_now(each, uids)

    async def _look_now(self, each: FollowedLinks, uids: Sequence[str]) -> bool:
        """Return whether the store answered for all of them."""
        service, recovery = each.service, self._resolver.recovery
        asked_at = self._clock()
        due = {uid for uid in uids if (followed := each.links.get(uid)) is not None and followed.renew_at <= asked_at}
        answers = await self._batches.find(service, uids)
        again: list[str] = []
        failed = False
        for uid in uids:
            followed, answer = each.links.get(uid), answers.get(uid)
            if followed is None:
                continue
            if isinstance(answer, StoreError):
                failed = True
                again.append(uid)
            elif answer is None and (service.doubtful or recovery.may_be_elsewhere(service, (uid,))):
                again.append(uid)  # a store that was lost: the pod that has it claims it again
                self._directory.reader.read_soon(service)
            else:
                each.take(followed, answer, asked_at)
        failed |= not await self._renew(each, sorted(due.difference(again)))
        each.look_again(again)
        return not failed

    async def _renew(self, each: FollowedLinks, uids: Sequence[str]) -> bool:
        """Renew those that are temporary and whose pod lives; return whether the store answered."""
        waiting = list(uids)
        failed: list[str] = []

        async def work() -> None:
            while waiting and not failed:
                uid = waiting.pop()
                try:
                    await self._renew_one(each, uid)
                except (StoreError, NoRoutablePodError) as error:
                    log.debug(
                        "followed_link_not_renewed",
                        "the followed link of %(uid)r could not be renewed: %(error)s",
                        uid=uid,
                        error=error,
                    )
                    failed.append(uid)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(waiting))):
                group.create_task(work())
        each.look_again([*waiting, *failed])
        return not failed

    async def _renew_one(self, each: FollowedLinks, uid: str) -> None:
        """Renew a link that is temporary, if its pod lives: that of a dead one is for a placement to replace.

        Raises:
            StoreError: if the store did not answer.
            NoRoutablePodError: if it has lost links, and not all were claimed again.

        """
        followed = each.links.get(uid)
        link = None if followed is None else followed.link
        if followed is None or link is None or link.kind is not LinkKind.TEMPORARY:
            return
        if not each.service.pod(link.pod_index).trusted:
            each.look_again((uid,))
            return
        asked_at = self._clock()
        renewed = await self._resolver.place_on(each.service, uid, link.pod_index)
        if each.links.get(uid) is followed:
            each.take(followed, renewed, asked_at, renewed=True)
