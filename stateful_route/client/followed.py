"""The links that somebody follows, and which of them have to be looked at: state without I/O."""

from __future__ import annotations

import math
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

from stateful_route.client.resolver import CACHED_KINDS
from stateful_route.models import LinkKind

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable

    from stateful_route.client.pods.service import ServicePods
    from stateful_route.models import Link, PodLife

_NEVER = math.inf


class FollowedLink:
    """The link of one uid as it was last seen, and who follows it."""

    __slots__ = ("followers", "known", "link", "renew_at", "uid", "waiting")

    def __init__(self, uid: str) -> None:
        """Begin without a link."""
        self.uid = uid
        self.link: Link | None = None
        self.known = False
        """Whether that is known; from then on only one question at a time is asked."""
        self.followers = 0
        self.renew_at = _NEVER
        """When a temporary link is to be renewed, on the clock of this process."""
        self.waiting: dict[asyncio.Future[None], None] = {}
        """Those who wait for a change."""

    def wake(self) -> None:
        """Let those who wait look again."""
        for future in self.waiting:
            if not future.done():
                future.set_result(None)
        self.waiting.clear()


class FollowedLinks:
    """The followed links of one service.

    A change is announced, and looked at at once, unless nobody says a word of it: what happens to all links of a pod is
    said once, for its life. So while a pod drains or is dead, while its links are of an older life, and while nothing
    can be heard, they are looked at again and again; and once more after that. So are uids that have no link, as
    nobody announces one that is made, and links in grace, which end by themselves.
    """

    def __init__(self, service: ServicePods) -> None:
        """Follow none yet."""
        self.service = service
        self.links: dict[str, FollowedLink] = {}
        self.urgent: dict[str, None] = {}
        """What was announced."""
        self._due: dict[str, None] = {}
        """What is to be looked at all the same."""
        self._by_owner: dict[PodLife | None, dict[str, None]] = {}
        self._kept_from: dict[PodLife, float] = {}
        """What was last seen of the pods: since when their links change with a word."""
        self._doubts = service.doubts
        """How often the service was doubted: the store was away, or could not be heard for a while."""
        self._renewals: list[tuple[float, str]] = []

    def add(self, uid: str) -> FollowedLink:
        """Count one more who follows a uid."""
        followed = self.links.get(uid)
        if followed is None:
            followed = self.links[uid] = FollowedLink(uid)
            self._by_owner.setdefault(None, {})[uid] = None
        followed.followers += 1
        return followed

    def remove(self, followed: FollowedLink) -> None:
        """Count one less."""
        followed.followers -= 1
        if followed.followers:
            return
        uid = followed.uid
        del self.links[uid]
        self._unlist(followed)
        followed.renew_at = _NEVER
        self.urgent.pop(uid, None)
        self._due.pop(uid, None)

    def heard(self, uid: str, epoch: int) -> bool:
        """Take in that a link is stale up to that epoch; return whether it has to be looked at now."""
        followed = self.links.get(uid)
        if followed is None or (followed.link is not None and followed.link.epoch > epoch):
            return False
        self.urgent[uid] = None
        return True

    def take(self, followed: FollowedLink, link: Link | None, now: float, *, renewed: bool = False) -> None:
        """Take in what the store says of a link; if its owner or its epoch is another, those who wait are told."""
        before = followed.link
        changed = is_other(before, link)
        self._unlist(followed)
        followed.link, followed.known = link, True
        owner = _listed_under(link)
        self._by_owner.setdefault(owner, {})[followed.uid] = None
        if owner is not None:
            self._kept_from.setdefault(owner, self.service.pod(owner.pod_index).kept_from)
        if link is None or link.kind is not LinkKind.TEMPORARY or link.ttl is None:
            followed.renew_at = _NEVER
        elif changed or renewed or followed.renew_at == _NEVER:
            followed.renew_at = now + link.ttl / 2
            heappush(self._renewals, (followed.renew_at, followed.uid))
        if changed:
            followed.wake()

    def look_again(self, uids: Iterable[str]) -> None:
        """Have these looked at the next time, as they could not be now, or the answer says nothing yet."""
        self._due.update(dict.fromkeys(uid for uid in uids if uid in self.links))

    def collect(self, now: float) -> None:
        """Note what is to be looked at, of which nobody says a word."""
        service = self.service
        if self._doubts != service.doubts or service.listener.listening_since == math.inf:
            self._doubts = service.doubts
            self._due.update(dict.fromkeys(self.links))
        for owner, uids in self._by_owner.items():
            if self._is_silent(owner):
                self._due.update(uids)
        while self._renewals and self._renewals[0][0] <= now:
            renew_at, uid = heappop(self._renewals)
            followed = self.links.get(uid)
            if followed is not None and followed.renew_at == renew_at:
                self._due[uid] = None

    def next_due(self, most: int) -> list[str]:
        """Return up to so many that are to be looked at, which they are by then."""
        return _pop(self._due, most)

    def next_urgent(self, most: int) -> list[str]:
        """Return up to so many of which a change was announced."""
        return _pop(self.urgent, most)

    def _is_silent(self, owner: PodLife | None) -> bool:
        """Whether links of that owner may change without a word, or did so since this was asked last."""
        if owner is None:
            return True
        pod = self.service.pod(owner.pod_index)
        before = self._kept_from.get(owner)
        self._kept_from[owner] = pod.kept_from
        changed = before is not None and before != pod.kept_from
        return changed or not pod.usable or pod.kept_from == math.inf or owner.incarnation < pod.incarnation

    def _unlist(self, followed: FollowedLink) -> None:
        owner = _listed_under(followed.link)
        uids = self._by_owner.get(owner)
        if uids is None:
            return
        uids.pop(followed.uid, None)
        if not uids:
            del self._by_owner[owner]
            if owner is not None:
                self._kept_from.pop(owner, None)


def is_other(before: Link | None, now: Link | None) -> bool:
    """Whether the owner or the epoch of a link is another one than before."""
    if before is None or now is None:
        return before is not now
    return before.owner != now.owner or before.epoch != now.epoch


def _listed_under(link: Link | None) -> PodLife | None:
    """Return the owner of a link, if it says a word of a change."""
    return link.owner if link is not None and link.kind in CACHED_KINDS else None


def _pop(uids: dict[str, None], most: int) -> list[str]:
    popped = list(islice(uids, most))
    for uid in popped:
        del uids[uid]
    return popped
