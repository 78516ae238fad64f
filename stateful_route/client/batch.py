"""Many uids in one call: in slices, so that the event loop gets its turn, and each uid with an answer of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from stateful_route._validation import check_id
from stateful_route.errors import (
    BatchError,
    InvalidArgumentError,
    StoreError,
    StoreTimeoutError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from stateful_route.client.cache.links import ServiceLinks
    from stateful_route.links import Link

    Answers: TypeAlias = dict[str, Link | StoreError]

# Uids that are handled before the event loop gets its turn: a few milliseconds.
_SLICE = 500


class Batch:
    """What one call for many uids has found so far."""

    def __init__(self, links: ServiceLinks, resolve: Callable[[list[str]], Awaitable[Answers]]) -> None:
        """Take what is cached, and ask ``resolve`` for the rest."""
        self.hits = 0
        """How many were cached."""
        self._links = links
        self._resolve = resolve
        self._by_pod: dict[int, list[str]] = {}
        self._errors: dict[str, StoreError] = {}
        self._away: StoreError | None = None

    async def run(self, uids: list[str]) -> dict[int, list[str]]:
        """Return the uids of each pod index.

        Raises:
            BatchError: if the store did not answer for some of them.
            StoreError: if nothing is known of any of them, for the first.

        """
        for start in range(0, len(uids), _SLICE):
            missing = [uid for uid in uids[start : start + _SLICE] if not self._take_cached(uid)]
            if self._away is not None:
                self._leave_out(missing, self._away)
            elif missing:
                await self._ask(missing)
            await asyncio.sleep(0)
        if not self._errors:
            return self._by_pod
        first = next(iter(self._errors.values()))
        if not self._by_pod:
            raise first
        raise BatchError(self._by_pod, self._errors) from first

    def _take_cached(self, uid: str) -> bool:
        pod = self._links.pod(uid)
        if pod is None:
            return False
        self.hits += 1
        self._by_pod.setdefault(pod.pod_index, []).append(uid)
        return True

    async def _ask(self, uids: list[str]) -> None:
        try:
            answers = await self._resolve(uids)
        except StoreError as error:
            answers = dict.fromkeys(uids, error)
        answered = False
        for uid, answer in answers.items():
            if not isinstance(answer, StoreError):
                self._by_pod.setdefault(answer.pod_index, []).append(uid)
                answered = True
            elif not isinstance(answer, StoreUnavailableError | StoreTimeoutError):
                self._errors[uid] = answer
                answered = True
            elif not self._take_cached(uid):  # it may be used only now that the store is known to be away
                self._errors[uid] = answer
        if not answered and set(uids) <= self._errors.keys():
            self._away = self._errors[uids[0]]

    def _leave_out(self, uids: list[str], error: StoreError) -> None:
        left_out = StoreUnavailableError(
            "not sent, as Redis did not answer for others", operation=error.operation, maybe_applied=False
        )
        self._errors |= dict.fromkeys(uids, left_out)


async def checked_uids(uids: Iterable[str]) -> list[str]:
    """Return the uids, each once, in their order.

    Raises:
        InvalidArgumentError: if it is not a collection of ids; nothing was sent yet.

    """
    if isinstance(uids, str | bytes) or not isinstance(uids, Iterable):
        raise InvalidArgumentError("uids", uids, "a collection of strings")
    checked: dict[str, None] = {}
    for number, uid in enumerate(uids, 1):
        check_id("uids", uid)
        checked[uid] = None
        if number % _SLICE == 0:
            await asyncio.sleep(0)
    return list(checked)
