"""What a client driver tells of itself."""

from __future__ import annotations

import attrs


@attrs.frozen
class ClientStatistics:
    """What a client driver has done since it was made.

    Attributes:
        hits: uids answered from the cache.
        misses: uids for which the store was asked.
        joined: misses that got the answer to another call for the same uid.
        placed: uids that this client placed on a pod, those that it took over included.
        taken_over: uids that it placed anew, as their pod was dead, or was leaving and had given them up.
        unreadable: links found in the store that could not be read.
        cached: links in the cache now, some of which may have ended.
        invalidated: announcements that the link of a uid has changed, cached here or not.
        away: calls that got a cached link as the store did not answer.
        deaf: services in use of which no announcement can be heard now; the store is asked for each of their uids.
        deaf_times: how often that has begun, the time until a service was heard first left out.
        deaf_seconds: how long that was, of all services together, those that are deaf now included.
        pods_alive: pods that are alive, of all services in use, as this client sees them; ``None`` while it has read
            none of these.

    """

    hits: int
    misses: int
    joined: int
    placed: int
    unreadable: int
    cached: int
    taken_over: int = 0
    invalidated: int = 0
    away: int = 0
    deaf: int = 0
    deaf_times: int = 0
    deaf_seconds: float = 0.0
    pods_alive: int | None = None
