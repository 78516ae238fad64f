"""Sources of uids: what all of them have, and those that look at the head of a request.

A source finds the *raw* id, as the client wrote it; ``normal.normalised`` makes a uid of it. A value that cannot be an
id is not found; what a client sends makes no source raise.
"""

from __future__ import annotations

import abc
import inspect
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import attrs

from stateful_route._validation import check_bool, check_callable, check_duration, check_id, check_int, checked
from stateful_route.errors import ConfigError, InvalidArgumentError
from stateful_route.web.uids.cookies import TOKEN
from stateful_route.web.uids.json_text import MAX_BODY_LIMIT
from stateful_route.web.uids.normal import normalised
from stateful_route.web.uids.path import compiled

if TYPE_CHECKING:
    import re
    from collections.abc import Callable

    from stateful_route.web.uids.request import RequestHead

DEFAULT = "default"
"""The ``ttl`` of a source that was given none."""
Ttl: TypeAlias = 'float | Literal["default"] | None'
Orphaned: TypeAlias = Literal["fresh", "refuse"]

_RELEASES = frozenset({"delete", 404, 410})
_MAKE = "make"
_LONGEST_PREFIX = 64


def check_token(argument: str, value: object) -> None:
    """Refuse what is not the name of a header or a cookie: letters, digits, and some signs (RFC 9110)."""
    if not isinstance(value, str) or not TOKEN.fullmatch(value):
        raise InvalidArgumentError(argument, value, "a name of letters, digits and any of !#$%&'*+-.^_`|~")


def check_status(argument: str, value: object) -> None:
    """Refuse what is not the status of an answer that says no: 400 to 599."""
    check_int(argument, value, 400, 599)


def check_ttl(argument: str, value: object) -> None:
    """Refuse what is no time for which a uid may be idle."""
    if value is not None and value != DEFAULT:
        check_duration(argument, value)


def check_orphaned(argument: str, value: object) -> None:
    """Refuse what does not say what becomes of a uid whose process is dead."""
    if value not in ("fresh", "refuse"):
        raise InvalidArgumentError(argument, value, '"fresh" or "refuse"')


def as_releases(value: Any) -> Any:
    """Return the set of what is given; leave what is no collection to the check that follows."""
    try:
        return value if isinstance(value, str) else frozenset(value)
    except TypeError:
        return value


def check_releases(argument: str, value: object) -> None:
    """Refuse what is not a set of ends of a uid."""
    fits = isinstance(value, frozenset) and all(isinstance(one, str | int) and one in _RELEASES for one in value)
    if not fits:
        raise InvalidArgumentError(argument, value, 'any of "delete", 404 and 410')


def _check_prefix(argument: str, value: object) -> None:
    if value != "":
        check_id(argument, value, longest=_LONGEST_PREFIX)


def _check_missing(source: UidSource, _attribute: object, value: int | None) -> None:
    if value is not None:
        check_status("missing", value)
        if source.place:
            raise ConfigError("missing", value, "None with place=True: then a uid that has no link is placed")


@attrs.frozen(kw_only=True)
class UidSource(abc.ABC):
    """Says which uid a request is for. Immutable; a subclass adds ``find``.

    Attributes:
        place: whether a uid without a link is placed on a pod. ``True`` for ids that the client may make up; ``False``
            for those that the application makes, so that garbage from outside makes no link.
        ttl: seconds without a request after which the owner releases the uid; ``None``: never. By default three times
            ``link_ttl`` of the config, so 1,800 s, for a uid that is placed; never if it is not placed, or if the app
            has a ``hand_off``, which is not called for a uid that is idle.
        missing: what a uid gets that has no link and is not placed: an error with this status, 400 to 599; ``None``:
            it is served where it arrived.
        release_on: what ends the uid: ``"delete"`` (a DELETE that was answered 2xx), and an answer 404 or 410 of its
            owner.
        orphaned: what becomes of a uid that is not placed, and whose process died or left. ``"fresh"``: the link proves
            that the app made it, so another process takes it over, without its state. ``"refuse"``: it gets what
            ``missing`` says. An app with a ``hand_off`` and no ``adopt`` takes it over in any case: it can load it.
        prefix: what the uid begins with, for two kinds of ids in one app: with ``prefix="doc:"`` the uid of ``7`` is
            ``doc:7``, and no other kind's ``7``. A ``Subprotocol`` has no such prefix, and means another thing by it.

    Raises:
        InvalidArgumentError: naming what is of a wrong type or range.
        ConfigError: if ``missing`` is given, and ``place`` is ``True``.

    """

    place: bool = attrs.field(default=True, validator=checked(check_bool))
    ttl: Ttl = attrs.field(default=DEFAULT, validator=checked(check_ttl))
    missing: int | None = attrs.field(default=None, validator=_check_missing)
    release_on: frozenset[str | int] = attrs.field(
        default=frozenset(), converter=as_releases, validator=checked(check_releases)
    )
    orphaned: Orphaned = attrs.field(default="refuse", validator=checked(check_orphaned))
    prefix: str = attrs.field(default="", validator=checked(_check_prefix))

    def __attrs_post_init__(self) -> None:
        """Derive what is kept for each request; an attribute with a default would be made before the checks."""
        for field in attrs.fields(type(self)):
            if _MAKE in field.metadata:
                object.__setattr__(self, field.name, field.metadata[_MAKE](self))

    def idle_ttl(self, of_placed: float | None) -> float | None:
        """Return for how many seconds a uid may be idle, by default ``of_placed`` for one that is placed."""
        if isinstance(self.ttl, str):
            return of_placed if self.place else None
        return self.ttl

    @property
    def body_limit(self) -> int:
        """Bytes of the request's body that it may need at most; 0: it looks at the head only."""
        return 0

    def wants_body(self, request: RequestHead) -> bool:
        """Whether it would look into the body of this request, of which only the head is known yet."""
        return self.body_limit > 0 and request.may_have_body(self.body_limit)

    def uid_of(self, raw: str) -> str | None:
        """Return the uid of an id as it came: normalised, behind the prefix; ``None`` if it is blank."""
        uid = normalised(raw)
        return normalised(self.prefix + uid) if uid is not None and self.prefix else uid

    @abc.abstractmethod
    def find(self, request: RequestHead) -> str | None:
        """Return the id as it came, or ``None`` if this request has none here."""


def lower_case(name: Any) -> Any:
    """Return the name of a header in the case in which ASGI has it; leave what is no string to the check."""
    return name.lower() if isinstance(name, str) else name


def header_name() -> Any:
    """Make the attribute of a source that is the name of its header."""
    return attrs.field(converter=lower_case, validator=checked(check_token))


def derived(make: Callable[[Any], Any]) -> Any:
    """Make a private attribute of a source: what ``make`` returns of the source once that is checked."""
    return attrs.field(init=False, repr=False, eq=False, metadata={_MAKE: make})


def header_key(name: str) -> bytes:
    """Return the name of a header as ASGI has it."""
    return name.encode()


@attrs.frozen
class Header(UidSource):
    """The value of a request header; the first one if it comes several times.

    Bytes beyond ASCII are read as latin-1, as ASGI applications do: the same letter in UTF-8 in a header and in a path
    are two ids.

    Attributes:
        name: of the header, in any case.

    """

    name: str = header_name()
    _key: bytes = derived(lambda source: header_key(source.name))

    def find(self, request: RequestHead) -> str | None:
        """Return the value of the header."""
        return request.header(self._key)


@attrs.frozen
class Cookie(UidSource):
    """The value of a cookie, the last one if it comes several times, as in Starlette and Django; not signed.

    Any client may send any value.

    Attributes:
        name: of the cookie, in the case in which it is set.
        orphaned: ``"fresh"`` by default: a browser would bring the cookie again and again.

    """

    name: str = attrs.field(validator=checked(check_token))
    orphaned: Orphaned = attrs.field(default="fresh", kw_only=True, validator=checked(check_orphaned))

    def find(self, request: RequestHead) -> str | None:
        """Return the value of the cookie."""
        return request.cookies().get(self.name)


def _check_parameter(argument: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(argument, value, "the name of a query parameter")


@attrs.frozen
class Query(UidSource):
    """The value of a query parameter, decoded; the last one if it comes several times, as in Starlette and Django.

    Attributes:
        name: of the parameter, decoded.

    """

    name: str = attrs.field(validator=checked(_check_parameter))

    def find(self, request: RequestHead) -> str | None:
        """Return the value of the parameter."""
        return request.query(self.name)


@attrs.frozen
class Path(UidSource):
    """A segment of the path: ``"/rooms/{uid}"`` matches that path and all below it, such as ``/rooms/7/messages``.

    Segments with other names in braces match anything: ``"/tenants/{tenant}/rooms/{uid}"``. A segment is never empty;
    case matters; a slash at the end, or ``"/..."``, says nothing more.

    The path is the one within the application, without ``root_path``, and percent-decoded *once*, by the web server:
    so ``%2F`` is a slash like any other, and ``/rooms/a%2Fb`` is the room ``a``, as it is for the router of Starlette.
    An application with slashes in its ids needs another source.

    Attributes:
        pattern: of the path.

    """

    pattern: str
    _regex: re.Pattern[str] = derived(lambda source: compiled(source.pattern))  # noqa: RUF009 - of attrs

    def find(self, request: RequestHead) -> str | None:
        """Return the segment of the path."""
        match = self._regex.match(request.path)
        return match[1] if match else None


@attrs.frozen
class Subprotocol(UidSource):
    """One of the subprotocols that a WebSocket asks for: by its place in the list, or by how it begins.

    Streamlit sends its session as the third one, and makes the ids itself: ``Subprotocol(index=2, place=False)``.

    Attributes:
        index: which one, from 0.
        prefix: what the first one that counts begins with; the rest of it is the id.

    Raises:
        ConfigError: unless exactly one of them is given.

    """

    index: int | None = attrs.field(default=None, kw_only=True, validator=checked(check_int, 0, 63, optional=True))
    prefix: str | None = attrs.field(  # type: ignore[assignment] # the older meaning of that word
        default=None, kw_only=True, validator=checked(check_token, optional=True)
    )

    def __attrs_post_init__(self) -> None:
        """Look at what belongs together."""
        super().__attrs_post_init__()
        if (self.index is None) == (self.prefix is None):
            raise ConfigError("Subprotocol", (self.index, self.prefix), "either index=... or prefix=...")

    def uid_of(self, raw: str) -> str | None:
        """Return the uid of an id as it came: normalised."""
        return normalised(raw)

    def find(self, request: RequestHead) -> str | None:
        """Return the subprotocol, or what follows the prefix in it."""
        asked = request.subprotocols
        if self.index is not None:
            return asked[self.index] if self.index < len(asked) else None
        prefix = self.prefix or ""
        return next((one[len(prefix) :] for one in asked if one.startswith(prefix)), None)


def _check_function(argument: str, value: object) -> None:
    check_callable(argument, value)
    call = getattr(value, "__call__", None)  # noqa: B004 - to look at it, not to test for it
    if inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(call):
        raise InvalidArgumentError(argument, value, "a def of a RequestHead, and no coroutine: it is not awaited")


@attrs.frozen
class Function(UidSource):
    """What a function of the application returns; what it raises goes on to the caller.

    It is called in the event loop, and it may be called several times for a request: it answers at once, from what it
    is given.

    Attributes:
        function: a ``def`` of a ``RequestHead`` that returns the id, or ``None``.
        limit: bytes of the longest body that it wants to see, up to 16 MiB; 0: it looks at the head only. ``body`` and
            ``json()`` of a request are ``None`` if there is none, or a longer one.

    """

    function: Callable[[RequestHead], str | None] = attrs.field(validator=checked(_check_function))
    limit: int = attrs.field(default=0, kw_only=True, validator=checked(check_int, 0, MAX_BODY_LIMIT))

    @property
    def body_limit(self) -> int:
        """Bytes of the body that it may need at most."""
        return self.limit

    def find(self, request: RequestHead) -> str | None:
        """Return what the function returns.

        Raises:
            InvalidArgumentError: if that is neither a string nor ``None``.

        """
        raw = self.function(request)
        if raw is not None and not isinstance(raw, str):
            raise InvalidArgumentError(f"what {self.function!r} returned", raw, "a string, or None")
        return raw
