"""What a pod has given up: a link that has such an epoch again comes from a store that was rolled back."""

from __future__ import annotations

# Uids that are remembered. Of those that are not any more, the highest epoch is.
_MOST = 10_000

_NEVER = -1


class GivenUp:
    """The epoch at which each uid was last given up.

    A store gives no epoch twice. If the link of a uid has one that this pod had given up, a failover or a restart has
    lost what came after: other pods may have owned the uid since, and what this one remembers at that epoch is old.
    Of more than 10,000 uids the oldest are known by their highest epoch only: a link that is newer than that is none of
    them.
    """

    def __init__(self) -> None:
        self._epochs: dict[str, tuple[int, int]] = {}
        """Of each uid the epoch, and the number of interruptions at which the link may go on with it."""
        self._before = 0

    def add(self, uid: str, epoch: int) -> None:
        """Take in that a uid is given up."""
        older, _ = self._epochs.pop(uid, (0, _NEVER))
        self._epochs[uid] = max(older, epoch), _NEVER
        if len(self._epochs) > _MOST:
            oldest = next(iter(self._epochs))
            self._before = max(self._before, self._epochs.pop(oldest)[0])

    def spare(self, uid: str, epoch: int, interruptions: int) -> None:
        """Let the uid go on with this epoch while no more interruptions were noticed: its link is still there."""
        if self._epochs[uid][0] == epoch:
            self._epochs[uid] = epoch, interruptions

    def has(self, uid: str, epoch: int, interruptions: int) -> bool:
        """Whether the uid was given up at this epoch, or a higher one."""
        until, spared_at = self._epochs.get(uid, (self._before, _NEVER))
        return epoch < until or (epoch == until and spared_at != interruptions)

    def had(self, uid: str, epoch: int) -> bool:
        """Whether the uid is one of those that are remembered, and was given up at this epoch or a higher one."""
        return uid in self._epochs and epoch <= self._epochs[uid][0]
