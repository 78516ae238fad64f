"""Which lives of the pods of a service are dead or leaving, and which of them a call has to name."""

from __future__ import annotations

from stateful_route.models import PodLife

# So many are named at most, and for so many seconds: what they cost is paid by every call.
_MOST_DEAD = 32
_MOST_LEAVING = 128
_NAMED_FOR = 600.0
_NAMED_ON_DEMAND_FOR = 60.0


class DeadLives:
    """The lives whose death is confirmed.

    A call that names the dead life that owns its link takes the link over in one round trip; one that does not learns
    of the owner by the answer, and needs a second one. So those that died lately are named, and for a while those whose
    links were met, but not every pod that was ever scaled down.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._dead: dict[int, int] = {}
        self._named_until: dict[PodLife, float] = {}
        self.named: tuple[PodLife, ...] = ()
        """The lives that a call names."""

    def __contains__(self, life: PodLife) -> bool:
        """Whether that life, or a newer one of its pod, is dead."""
        return life.incarnation <= self._dead.get(life.pod_index, -1)

    def add(self, life: PodLife, died_at: float, now: float) -> None:
        """Add a life that died at that second, by the clock of ``now``; it is named if few died after it."""
        self._dead[life.pod_index] = max(life.incarnation, self._dead.get(life.pod_index, 0))
        until = died_at + _NAMED_FOR
        if until <= now or life in self._named_until:
            return
        if len(self._named_until) >= _MOST_DEAD:
            first = min(self._named_until, key=self._named_until.__getitem__)
            if self._named_until[first] >= until:
                return
            del self._named_until[first]
        self._name(life, until)

    def met(self, life: PodLife, now: float) -> None:
        """Name the dead life of a pod, as an older or the same life of it owns a link."""
        dead = PodLife(life.pod_index, self._dead[life.pod_index])
        self._name(dead, now + _NAMED_ON_DEMAND_FOR)

    def discard(self, pod_index: int) -> None:
        """Remove the life of a pod, if there is one: the pod has a newer life."""
        incarnation = self._dead.pop(pod_index, None)
        if incarnation is not None and self._named_until.pop(PodLife(pod_index, incarnation), None) is not None:
            self.named = tuple(self._named_until)

    def clear(self) -> None:
        """Remove all."""
        self._dead.clear()

    def tidy(self, now: float) -> None:
        """Name those no longer that were named for long enough, or that are not dead any more."""
        kept = {life: until for life, until in self._named_until.items() if now < until and life in self}
        if len(kept) < len(self._named_until):
            self._named_until = kept
            self.named = tuple(kept)

    def _name(self, life: PodLife, until: float) -> None:
        if until > self._named_until.get(life, 0.0):
            self._named_until[life] = until
            self.named = tuple(self._named_until)


class LeavingLives:
    """The lives that are draining or shut down, and not known to be dead."""

    def __init__(self) -> None:
        """Begin with none."""
        self._leaving: dict[int, PodLife] = {}
        self.named: tuple[PodLife, ...] = ()
        """The lives that a call names: the latest, if all at once are too many."""

    def note(self, life: PodLife, *, leaving: bool) -> None:
        """Take in whether the newest life of a pod is leaving."""
        known = self._leaving.get(life.pod_index)
        if leaving and known != life:
            self._leaving[life.pod_index] = life
        elif not leaving and known is not None:
            del self._leaving[life.pod_index]
        else:
            return
        self.named = tuple(self._leaving.values())[-_MOST_LEAVING:]
