"""Ids that the application makes, and that are first seen in its answer."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote, unquote, unquote_plus, urljoin, urlsplit

import attrs

from stateful_route._validation import check_duration, check_int, checked
from stateful_route.errors import InvalidArgumentError
from stateful_route.web.uids.json_text import MAX_BODY_LIMIT, id_at, steps_of
from stateful_route.web.uids.path import compiled
from stateful_route.web.uids.request import path_below
from stateful_route.web.uids.sources import (
    Orphaned,
    Ttl,
    UidSource,
    as_releases,
    check_orphaned,
    check_releases,
    check_status,
    check_token,
    derived,
    header_key,
    header_name,
)

if TYPE_CHECKING:
    import re

    from stateful_route.web.uids.request import AnswerHead, RequestHead

IDLE = 1800.0
"""Seconds after which a uid that was learned is released, unless its source says otherwise: applications forget too."""

_FIRST_REFUSAL = 400
_CREATED = 201
_REDIRECTS = range(300, 400)
_SUCCESSES = range(200, 300)
_MAKING = frozenset({"POST", "PUT", "PATCH"})
_ANSWER_LIMIT = 64 * 1024


@attrs.frozen(kw_only=True)
class LearnedSource(UidSource):
    """Learns the ids that the application makes, and finds them in later requests.

    Such a uid is found and never placed: one without a link is unknown, and gets what ``missing`` says.

    Attributes:
        place: ``False``.
        ttl: seconds without a request after which the owner releases the uid; ``None``: never.
        missing: the status for a uid that has no link, 400 to 599; ``None``: it is served where it arrived.
        release_on: what ends the uid: ``"delete"``, 404, 410.
        orphaned: as of each source: ``"refuse"`` by default, but for a cookie.

    """

    finds: ClassVar[bool] = True
    """Whether it finds ids in requests as well; if not, another source has to."""

    place: bool = attrs.field(default=False, init=False)
    ttl: Ttl = attrs.field(default=IDLE, validator=checked(check_duration, optional=True))
    missing: int | None = attrs.field(default=404, validator=checked(check_status, optional=True))
    release_on: frozenset[str | int] = attrs.field(
        default=frozenset({"delete", 404, 410}), converter=as_releases, validator=checked(check_releases)
    )

    @property
    def answer_limit(self) -> int:
        """Bytes of the answer's body that it may need at most; 0: it looks at the head only."""
        return 0

    def wants_answer(self, request: RequestHead, answer: AnswerHead) -> bool:  # noqa: ARG002 - for subclasses
        """Whether it would look into the body of this answer, of which only the head is known yet."""
        return self.answer_limit > 0

    @abc.abstractmethod
    def learn(self, request: RequestHead, answer: AnswerHead) -> str | None:
        """Return the id that the answer gives to the client, as it is there; ``None`` if it gives none."""


@attrs.frozen
class ResponseHeader(LearnedSource):
    """A header of an answer below 400, such as ``Mcp-Session-Id``; later found in the request header of that name.

    Attributes:
        name: of the header, in any case.

    """

    name: str = header_name()
    _key: bytes = derived(lambda source: header_key(source.name))

    def find(self, request: RequestHead) -> str | None:
        """Return the value of the request header."""
        return request.header(self._key)

    def learn(self, request: RequestHead, answer: AnswerHead) -> str | None:  # noqa: ARG002 - as all of them
        """Return the value of the answer's header."""
        return answer.header(self._key) if answer.status < _FIRST_REFUSAL else None


@attrs.frozen
class ResponseCookie(LearnedSource):
    """A cookie that an answer below 400 sets; later found in the request's cookies.

    Attributes:
        name: of the cookie, in the case in which it is set.
        orphaned: ``"fresh"`` by default: a browser would bring the cookie again and again.
        release_on: nothing by default: a browser sends the cookie with each request, and a 404 or a DELETE of something
            else does not end the session.

    """

    name: str = attrs.field(validator=checked(check_token))
    orphaned: Orphaned = attrs.field(default="fresh", kw_only=True, validator=checked(check_orphaned))
    release_on: frozenset[str | int] = attrs.field(
        default=frozenset(), kw_only=True, converter=as_releases, validator=checked(check_releases)
    )

    def find(self, request: RequestHead) -> str | None:
        """Return the value of the request's cookie."""
        return request.cookies().get(self.name)

    def learn(self, request: RequestHead, answer: AnswerHead) -> str | None:  # noqa: ARG002 - as all of them
        """Return the value that the answer sets; a cookie that it drops is none."""
        return answer.cookies().get(self.name) if answer.status < _FIRST_REFUSAL else None


@attrs.frozen
class Location(LearnedSource):
    """A segment of the path in the ``Location`` of an answer 201 or 3xx; later found in the path of requests.

    The pattern is that of ``Path``. A location whose id the request brought, as ``/login?next=/rooms/7``,
    ``/old/rooms/7`` and a ``Referer`` do, is not learned: the application did not make it. An application that
    redirects to wherever a *form* says lets its users make links.

    Attributes:
        pattern: of the path, within the application.

    """

    pattern: str
    _regex: re.Pattern[str] = derived(lambda source: compiled(source.pattern))  # noqa: RUF009 - of attrs

    def find(self, request: RequestHead) -> str | None:
        """Return the segment of the request's path."""
        match = self._regex.match(request.path)
        return match[1] if match else None

    def learn(self, request: RequestHead, answer: AnswerHead) -> str | None:
        """Return the segment of the path to which the answer leads."""
        if answer.status != _CREATED and answer.status not in _REDIRECTS:
            return None
        location = answer.header(b"location")
        target = _path_of(location, request) if location else None
        match = self._regex.match(target) if target else None
        return match[1] if match and not _is_brought(match, request) else None


def _path_of(location: str, request: RequestHead) -> str | None:
    """Return the path of a location within the application, decoded; ``None`` if it cannot be read."""
    try:
        whole = urlsplit(urljoin(quote(request.scope["path"]), location)).path
    except ValueError:
        return None
    return path_below(request.root_path, unquote(whole))


def _is_brought(match: re.Match[str], request: RequestHead) -> bool:
    """Whether the request leads there itself: by its query, by the page that it says it comes from, or by its path."""
    path = request.path
    query: bytes = request.scope.get("query_string") or b""
    target = match[0].strip("/")
    if target in path or target in unquote_plus(query.decode("latin-1")):
        return True
    referer = request.header(b"referer")
    before = match.re.match(_path_of(referer, request) or "") if referer else None
    if before is not None and before[1] == match[1]:
        return True
    return request.method in {"GET", "HEAD"} and match[1] in path.split("/")


def _check_path(argument: str, value: object) -> None:
    if not isinstance(value, str) or not value.startswith("/"):
        raise InvalidArgumentError(argument, value, 'a path from "/" on, for example "/sessions", or None')


@attrs.frozen
class JsonResponse(LearnedSource):
    """A string or a whole number in the JSON body of an answer 2xx. It learns only: another source finds the id.

    With ``place=False`` that one says what becomes of an id without a link::

        uid=[JsonResponse("/pc_id"), JsonBody("/pc_id", place=False, missing=404)]

    Only answers that say that they are JSON (``Content-Type``) and are not compressed are looked at; so a middleware
    that compresses has to stand outside this one. Many answers have an id in them that is no session: say at which
    ``path`` sessions are made.

    Attributes:
        pointer: to it (RFC 6901), for example ``"/id"``.
        path: only an answer to a request of that path, or below it, teaches; ``None``: of any path, and of a POST, PUT
            or PATCH only.
        limit: bytes of the longest body that is looked at, 1 to 16 MiB; of a longer one nothing is learned.

    """

    finds: ClassVar[bool] = False

    pointer: str
    path: str | None = attrs.field(default=None, kw_only=True, validator=checked(_check_path, optional=True))
    limit: int = attrs.field(default=_ANSWER_LIMIT, kw_only=True, validator=checked(check_int, 1, MAX_BODY_LIMIT))
    _steps: tuple[str, ...] = derived(lambda source: steps_of(source.pointer))

    @property
    def answer_limit(self) -> int:
        """Bytes of the answer's body that it may need at most."""
        return self.limit

    def wants_answer(self, request: RequestHead, answer: AnswerHead) -> bool:
        """Whether the request may make an id, the answer is a success, and its head allows for JSON that is short."""
        if self.path is None:
            makes = request.method in _MAKING
        else:
            makes = request.method != "HEAD" and f"{request.path}/".startswith(f"{self.path.rstrip('/')}/")
        return makes and answer.status in _SUCCESSES and answer.may_have_json(self.limit)

    def find(self, request: RequestHead) -> str | None:  # noqa: ARG002 - as all of them
        """Return ``None``: it only learns."""
        return None

    def learn(self, request: RequestHead, answer: AnswerHead) -> str | None:
        """Return what the pointer leads to."""
        body = answer.body
        if not body or len(body) > self.limit or not self.wants_answer(request, answer):
            return None
        return id_at(answer.json(), self._steps)
