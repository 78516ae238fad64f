"""Which answers of the store are stale when they come, as what they tell has changed since it was asked for."""

from __future__ import annotations

import math


class Overtaken:
    """The answers about the links of one service that are not to be cached; times are on the clock of the cache."""

    __slots__ = ("_answer_time", "_heard", "_heard_since", "_older", "_older_heard_at", "heard_at", "since")

    def __init__(self, answer_time: float) -> None:
        """Begin with none. The store answers within ``answer_time`` seconds, or not at all."""
        self._answer_time = answer_time
        self.since = -math.inf
        """What was asked for before is not kept."""
        self.heard_at = -math.inf
        """When an invalidation was heard last: what was asked for later is not overtaken."""
        self._heard: dict[str, tuple[int, float]] = {}
        """Up to which epoch the link of a uid is stale, and when that was heard: an answer may be older than that."""
        self._older: dict[str, tuple[int, float]] = {}
        """What was heard before that. It goes after a while: an answer that is older then is not kept."""
        self._heard_since = self._older_heard_at = -math.inf
        """When the newer ones were begun, and when the last of the older ones was heard."""

    def flush(self, now: float) -> None:
        """Drop the answers that are in flight."""
        self.since = max(self.since, now)  # after the end nothing is kept, whatever comes

    def invalidate(self, uid: str, epoch: int, now: float) -> None:
        """Take in that the link of a uid has changed, up to that epoch."""
        if now - self._heard_since > self._answer_time:
            self.since = max(self.since, math.nextafter(self._older_heard_at, math.inf))
            self._older, self._older_heard_at = self._heard, self.heard_at
            self._heard, self._heard_since = {}, now
        known = self._heard.get(uid)
        self._heard[uid] = epoch if known is None else max(epoch, known[0]), now
        self.heard_at = now

    def has(self, uid: str, epoch: int, asked_at: float) -> bool:
        """Whether a link was invalidated since it was asked for."""
        for heard in (self._heard, self._older):
            until, heard_at = heard.get(uid, (-1, 0.0))
            if epoch <= until and asked_at <= heard_at:
                return True
        return False
