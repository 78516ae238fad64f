"""What an app sees of the routing: the uid of its request, and the right to serve it."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from stateful_route._validation import check_id
from stateful_route.errors import InvalidArgumentError, LifecycleError
from stateful_route.web.uids.normal import MAX_UID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from stateful_route.server.driver import ServerDriver
    from stateful_route.server.owning.ownership import Ownership

STATE_KEY = "sticky"
"""Where it is in ``scope["state"]``: ``request.state.sticky`` in Starlette and FastAPI."""

_MINTED_BYTES = 16


class NoOwnership:
    """Stands for the ownership that a request does not have: it is false, and each use raises why.

    Raises:
        LifecycleError: by each attribute.

    """

    __slots__ = ("_path", "_uid")

    def __init__(self, uid: str | None, path: str) -> None:
        """Note the uid of the request, if it has one, and its path."""
        self._uid = uid
        self._path = path

    def __bool__(self) -> Literal[False]:
        return False

    def __repr__(self) -> str:
        return f"<NoOwnership: {self._why()}>"

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):  # what Python itself looks for, as copy() does
            raise AttributeError(name)
        raise LifecycleError(f"there is no ownership: {self._why()}")

    def _why(self) -> str:
        if self._uid is None:
            return f"no source found a uid in {self._path}"
        return f"nobody has claimed {self._uid!r}, the uid of {self._path}"


class Sticky:
    """The routing of one request.

    Attributes:
        uid: of the request; ``None`` if it has none.
        ownership: the right of this process to serve the uid. Without one, as of a request without a uid, it is false
            (``if sticky.ownership:``), and its attributes raise a ``LifecycleError`` that says why.
        server: the driver of this process.

    """

    __slots__ = ("_within", "ownership", "server", "uid")

    def __init__(
        self,
        server: ServerDriver,
        uid: str | None,
        ownership: Ownership | NoOwnership,
        within: Callable[[str], str | None] | None = None,
    ) -> None:
        """Note what the request has; ``within`` makes an id of the app one of whom the request is from."""
        self.server = server
        self.uid = uid
        self.ownership = ownership
        self._within = within

    def __repr__(self) -> str:
        return f"<Sticky: {self.uid!r} at pod {self.server.pod_index}, epoch {self.epoch}>"

    @classmethod
    def of(cls, request: Any) -> Sticky:
        """Return that of a request, a WebSocket, or an ASGI scope.

        Raises:
            LifecycleError: if it did not come through the middleware.

        """
        scope = request if isinstance(request, dict) else getattr(request, "scope", None)
        found = ((scope or {}).get("state") or {}).get(STATE_KEY)
        if not isinstance(found, cls):
            raise LifecycleError("this request did not come through StickyMiddleware: add it to the app")
        return found

    @property
    def epoch(self) -> int | None:
        """The fencing token of the uid: rises with every change of owner; ``None`` without an owner."""
        return self.ownership.epoch if self.ownership else None

    @property
    def inherited(self) -> bool:
        """Whether an older life of this pod had the uid, so that its memory of it is gone."""
        return bool(self.ownership) and self.ownership.inherited

    def continues(self, epoch: int | None) -> bool:
        """Whether what this process remembers of the uid is good that it has kept at that epoch.

        So it is if nobody else has owned the uid since: at the same epoch, and at a later one that this process got as
        it has claimed again what it had, after Redis was lost and came back empty within a lease. ``None``, as of what
        is not remembered, is ``False``. Local: no I/O.
        """
        if not self.ownership:
            return False
        # This request may have begun before the uid was claimed again, and another one gone on with its state since.
        present = self.server.owned(self.ownership.uid) or self.ownership
        return present.resumes_epoch(epoch)

    @property
    def pod_index(self) -> int | None:
        """Which pod this process is."""
        return self.server.pod_index

    def is_owned(self) -> bool:
        """Whether this process may serve the uid now. Local: no I/O."""
        return bool(self.ownership) and self.ownership.is_owned()

    async def mint(self, prefix: str = "", *, idle_ttl: float | None = None) -> str:
        """Return a new id of 128 random bits that this process has claimed: one for a client to bring back.

        With a ``scope`` it is one of whom the request is from, and unknown for anybody else. After ``idle_ttl`` seconds
        without a request it is released.

        Raises:
            InvalidArgumentError: if the prefix cannot be part of an id, or there is a scope, and nobody in the request.
            NotOwnerError: if it could not be claimed.
            StoreError: if Redis did not answer.

        """
        if self._within is None:
            return (await self.server.mint(prefix, idle_ttl=idle_ttl)).uid
        raw = secrets.token_hex(_MINTED_BYTES)
        if prefix:
            check_id("prefix", prefix, longest=MAX_UID_BYTES - len(raw) - 1)
            raw = f"{prefix}-{raw}"
        (await self.server.claim(self._scoped(raw), idle_ttl=idle_ttl)).require()
        return raw

    async def claim(self, uid: str, *, idle_ttl: float | None = None) -> Ownership:
        """Claim an id that the app has made; see ``ServerDriver.claim``. With a ``scope`` as ``mint``."""
        return await self.server.claim(self._scoped(uid), idle_ttl=idle_ttl)

    def _scoped(self, raw: str) -> str:
        uid = raw if self._within is None else self._within(raw)
        if uid is None:
            raise InvalidArgumentError("uid", raw, "with a scope: an id in a request that says whose it is")
        return uid

    async def release(self, uid: str | None = None) -> bool:
        """Give an id up, by default that of the request; return whether it was this process's.

        Raises:
            StoreError: if Redis did not answer.

        """
        uid = self.uid if uid is None else self._scoped(uid)
        ownership = None if uid is None else self.server.owned(uid)
        return False if ownership is None else await ownership.release()
