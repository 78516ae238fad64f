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
        placed: uids that this client placed on a pod.
        unreadable: links found in the store that could not be read.
        cached: links in the cache now, some of which may have ended.

    """

    hits: int
    misses: int
    joined: int
    placed: int
    unreadable: int
    cached: int
