"""How long a pod has a uid, through all lives of the pod: what the handles of one tenure have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

NOWHERE = -1
"""The slot of what is in no queue."""


class Tenure:
    """Who is to be told of its end, when the uid was used last, and for how long it may be idle.

    A context, that of ``Ownership.in_use``: entered more than once it counts.
    """

    __slots__ = ("_callbacks", "_clock", "ended", "idle_ttl", "slot", "touched", "users")

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin now, by ``clock``, which is that of the lease."""
        self._clock = clock
        self._callbacks: list[Callable[[], None]] | None = None  # most tenures have none
        self.ended = False
        """Whether the uid is lost: no handle of the tenure is owned any more, nor will be."""
        self.touched = clock()
        """When the uid was used last, as far as that was noted."""
        self.users = 0
        """How many use it now."""
        self.idle_ttl: float | None = None
        """For how many seconds it may be idle; without limit if that is ``None``."""
        self.slot = NOWHERE
        """Where it is in the queue of ``IdleUids``."""

    @property
    def callbacks(self) -> tuple[Callable[[], None], ...]:
        """What is to be called at its end."""
        return tuple(self._callbacks or ())

    def on_end(self, callback: Callable[[], None]) -> None:
        """Have ``end`` return the callback; it has not ended."""
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Have a callback not called, if it waits for that."""
        if self._callbacks is not None and callback in self._callbacks:
            self._callbacks.remove(callback)

    def end(self) -> tuple[Callable[[], None], ...]:
        """End; return what is to be called now, in its order."""
        callbacks, self._callbacks, self.ended = self.callbacks, None, True
        return callbacks

    def __enter__(self) -> None:
        """Count one more who uses the uid."""
        self.users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count one less."""
        self.users -= 1
        self.touched = self._clock()

    def touch(self) -> None:
        """Note that the uid is used."""
        self.touched = self._clock()

    def follow(self, older: Tenure) -> None:
        """Be idle as the older tenure of the uid was, which has ended: who has forgotten it does not notice."""
        self.idle_ttl, self.touched = older.idle_ttl, older.touched

    def idle_at(self) -> float:
        """Return when its time is up if nobody uses it until then; only if it has an ``idle_ttl``."""
        now = self._clock()
        return (now if self.users else self.touched) + (self.idle_ttl or 0.0)

    def unused_for(self) -> float:
        """Return for how many seconds nobody has used it."""
        return 0.0 if self.users else self._clock() - self.touched

    def is_idle(self) -> bool:
        """Whether nobody has used it for its time."""
        return self.idle_ttl is not None and self.idle_at() <= self._clock()
