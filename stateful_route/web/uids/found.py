"""The list of sources of a service: which uid a request is for, and which one an answer has made."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route.errors import ConfigError
from stateful_route.web.uids.body import JsonBody, McpParam
from stateful_route.web.uids.issued import IssuedSource
from stateful_route.web.uids.learned import LearnedSource
from stateful_route.web.uids.normal import normalised, scoped
from stateful_route.web.uids.request import RequestHead
from stateful_route.web.uids.sources import Function, Path, UidSource

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateful_route.web.uids.request import AnswerHead

# Paths of which the uid is remembered: to look for it again takes some microseconds.
_REMEMBERED = 4096
# Characters of a path that is remembered.
_LONGEST = 256
_EXAMPLE = 'for example uid=[Path("/rooms/{uid}"), Header("x-session-id")]'


@attrs.define  # and not frozen: for each request one is made, in a third of the time
class Found:
    """A uid, and where it was. Nobody changes it.

    Attributes:
        uid: normalised, and within its scope: what the drivers are asked for.
        source: that found or learned it.
        stale: whether it is to be issued again: the cookie is signed with an older secret.

    """

    uid: str
    source: UidSource
    stale: bool = False


class UidSources:
    """An ordered list of sources; the first one that finds something wins.

    Attributes:
        sources: all of them, in their order.
        scope: the source of the principal that uids belong to, or ``None``.
        learned: those of them that learn.
        issued: the one that issues, or ``None``.
        body_limit: bytes of a request's body that any of them needs at most; 0: none needs any.
        answer_limit: bytes of an answer's body that any of them needs at most; 0: none needs any.

    """

    def __init__(
        self,
        sources: UidSource | Sequence[UidSource],
        scope: UidSource | Callable[[RequestHead], str | None] | None = None,
    ) -> None:
        """Take one source or several, and where the principal is that the uids belong to.

        With a ``scope``, a uid is the one of a principal: the same id of two users is two uids. A request without a
        principal has no uid.

        Raises:
            ConfigError: saying what to do, if there is no source, something else among them, more than one that
                issues, one behind that, or one that only learns and none that finds.
            InvalidArgumentError: if the scope is a coroutine function.

        """
        self.sources = _listed(sources)
        self.learned = tuple(source for source in self.sources if isinstance(source, LearnedSource))
        self.issued = _issued(self.sources)
        if all(isinstance(source, LearnedSource) and not source.finds for source in self.sources):
            raise ConfigError(
                "uid",
                list(self.sources),
                "with JsonResponse another source that finds the id in later requests, for example "
                'Query("id", place=False, missing=404)',
            )
        self._numbers = {id(source): number for number, source in enumerate(self.sources)}
        self.scope = _scope(scope)
        self._in_path = _in_path(self.sources[0]) if self.scope is None else None
        everyone = (*self.sources, self.scope) if self.scope else self.sources
        self.body_limit = max(source.body_limit for source in everyone)
        self.answer_limit = max((source.answer_limit for source in self.learned), default=0)

    def __repr__(self) -> str:
        return f"<UidSources: {list(self.sources)}, scope {self.scope}>"

    def find_in_path(self, scope: Mapping[str, Any]) -> Found | None:
        """Return the uid of a request if the first source is a ``Path`` and finds it: from memory almost always.

        ``None`` says nothing: then ``find`` it.
        """
        path: str = scope["path"]
        if self._in_path is None or len(path) > _LONGEST or scope.get("root_path"):
            return None
        return self._in_path(path)

    def find(self, request: RequestHead) -> Found | None:
        """Return the uid of a request; ``None`` if it has none, or if there is a scope and no principal in it."""
        for source in self.sources:
            found = self._found_by(source, request)
            if found is None:
                continue
            if self.scope is None:
                return found
            uid = self._within(request, found.uid)
            return None if uid is None else attrs.evolve(found, uid=uid)
        return None

    def within_scope(self, request: RequestHead, raw: str, source: UidSource | None = None) -> str | None:
        """Return the uid of an id that is known otherwise (minted, new): normalised, and that of the principal.

        One that is new has the prefix of the source that issues it. ``None`` if it is blank, or if there is a scope and
        no principal in the request.
        """
        uid = normalised(raw) if source is None else source.uid_of(raw)
        return uid if uid is None or self.scope is None else self._within(request, uid)

    def number(self, source: UidSource) -> int:
        """Return the place of a source in their order: how one process tells another which one found a uid."""
        return self._numbers[id(source)]

    def numbered(self, number: int) -> UidSource:
        """Return the source at that place; the last one if another release of the app has more of them."""
        return self.sources[min(number, len(self.sources) - 1)]

    def needs_body(self, request: RequestHead) -> bool:
        """Whether the body of the request is to be read first, up to ``body_limit`` bytes: it may change what is found.

        That is so if the head allows for a body that a source can read, and no source before that finds anything; or
        that the scope can read. ``False`` once the body is there.
        """
        if not self.body_limit or request.body is not None:
            return False
        if self.scope is not None and self.scope.body_limit and self.scope.wants_body(request):
            return True
        for source in self.sources:
            if source.body_limit and source.wants_body(request):
                return True
            if self._found_by(source, request) is not None:
                return False
        return False

    def has_hidden_id(self, request: RequestHead, found: Found | None) -> bool:
        """Whether the id may be in a JSON body that is longer than its source allows: nobody knows whose it is then."""
        length = -1 if request.body is None else len(request.body)
        for source in self.sources:
            if found is not None and source is found.source:
                return False
            if (
                isinstance(source, JsonBody | McpParam)
                and source.wants_body(request)
                and not 0 <= length <= source.limit
            ):
                return True
        return False

    def needs_answer(self, request: RequestHead, answer: AnswerHead) -> bool:
        """Whether the body of the answer may teach an id, of at most ``answer_limit`` bytes; it is held until then."""
        if not self.answer_limit or answer.body is not None:
            return False
        for source in self.learned:
            if source.answer_limit and source.wants_answer(request, answer):
                return True
            if self._made_by(source, request, answer) is not None:
                return False
        return False

    def learn(self, request: RequestHead, answer: AnswerHead) -> Found | None:
        """Return the uid that the application has made, as the first source that learns says it; ``None`` if none.

        An id that the request brought already was not made by the answer: it is not learned, so that an application
        that echoes what it is sent makes no links for garbage.
        """
        for source in self.learned:
            made = self._made_by(source, request, answer)
            if made is not None:
                uid = source.uid_of(made)
                if uid is not None and self.scope is not None:
                    uid = self._within(request, uid)
                return None if uid is None else Found(uid, source)
        return None

    def _made_by(self, source: LearnedSource, request: RequestHead, answer: AnswerHead) -> str | None:
        uid = normalised(source.learn(request, answer) or "")
        if uid is None or any(normalised(each.find(request) or "") == uid for each in self.sources):
            return None
        return uid

    def _found_by(self, source: UidSource, request: RequestHead) -> Found | None:
        if source is self.issued:
            issued = self.issued.read(request)
            uid = source.uid_of(issued.uid) if issued else None
            return Found(uid, source, issued.stale) if issued and uid is not None else None
        raw = source.find(request)
        uid = source.uid_of(raw) if raw else None
        return Found(uid, source) if uid is not None else None

    def _within(self, request: RequestHead, uid: str) -> str | None:
        principal = normalised(self.scope.find(request) or "") if self.scope else None
        return scoped(principal, uid) if principal is not None else None


def _in_path(source: UidSource) -> Callable[[str], Found | None] | None:
    """Return what finds a uid in a path, and remembers it; ``None`` if the source looks elsewhere."""
    if type(source) is not Path:
        return None

    @functools.lru_cache(_REMEMBERED)
    def find(path: str) -> Found | None:
        raw = source.find(RequestHead({"path": path}))
        uid = source.uid_of(raw) if raw else None
        return None if uid is None else Found(uid, source)

    return find


def _listed(sources: UidSource | Sequence[UidSource]) -> tuple[UidSource, ...]:
    listed = (sources,) if isinstance(sources, UidSource) else sources
    if not isinstance(listed, Sequence) or isinstance(listed, str) or not listed:
        raise ConfigError("uid", sources, f"a source of uids, or a list of them, {_EXAMPLE}")
    for source in listed:
        if not isinstance(source, UidSource):
            hint = "; a function goes into Function(...)" if callable(source) else ""
            raise ConfigError("uid", source, f"only sources of uids in the list, {_EXAMPLE}{hint}")
    return tuple(listed)


def _issued(sources: tuple[UidSource, ...]) -> IssuedSource | None:
    issuing = [source for source in sources if isinstance(source, IssuedSource)]
    if len(issuing) > 1:
        raise ConfigError("uid", list(sources), "one SignedCookie at most; to rotate, give it several secrets")
    if issuing and sources[-1] is not issuing[0]:
        raise ConfigError(
            "uid", list(sources), "the SignedCookie as the last one: a client that has it is asked for nothing else"
        )
    return issuing[0] if issuing else None


def _scope(scope: UidSource | Callable[[RequestHead], str | None] | None) -> UidSource | None:
    if scope is None or isinstance(scope, UidSource):
        if isinstance(scope, LearnedSource):
            raise ConfigError("scope", scope, 'a source that finds the principal, for example Jwt("sub", key=...)')
        return scope
    if not callable(scope) or isinstance(scope, type):
        raise ConfigError("scope", scope, "a source of the principal, a function of the request, or None")
    return Function(scope)
