"""Sources that look into the body of a request."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import attrs

from stateful_route._validation import check_int, checked
from stateful_route.errors import InvalidArgumentError
from stateful_route.web.uids.json_text import BODY_LIMIT, MAX_BODY_LIMIT, id_at, steps_of
from stateful_route.web.uids.sources import UidSource, check_token, derived

if TYPE_CHECKING:
    from stateful_route.web.uids.request import RequestHead

_ENCODED, _END = "=?base64?", "?="


def _id_in(request: RequestHead, steps: tuple[str, ...], limit: int) -> str | None:
    body = request.body
    return id_at(request.json(), steps) if body and len(body) <= limit and request.is_json() else None


@attrs.frozen
class JsonBody(UidSource):
    """A string or a whole number in the JSON body of a request.

    Only bodies that say that they are JSON (``Content-Type``) are looked at.

    Attributes:
        pointer: to it (RFC 6901), for example ``"/params/arguments/id"``.
        limit: bytes of the longest body, 1 to 16 MiB; a longer one is refused (413): its id is not known.

    """

    pointer: str
    limit: int = attrs.field(default=BODY_LIMIT, kw_only=True, validator=checked(check_int, 1, MAX_BODY_LIMIT))
    _steps: tuple[str, ...] = derived(lambda source: steps_of(source.pointer))

    @property
    def body_limit(self) -> int:
        """Bytes of the body that it may need at most."""
        return self.limit

    def wants_body(self, request: RequestHead) -> bool:
        """Whether the head allows for JSON, of whatever length."""
        return request.may_have_json()

    def find(self, request: RequestHead) -> str | None:
        """Return what the pointer leads to."""
        return _id_in(request, self._steps, self.limit)


def _check_argument(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidArgumentError(argument, value, "the name of a tool's argument, or None: that of the header")


def _argument_steps(source: McpParam) -> tuple[str, ...]:
    return "params", "arguments", source.name if source.argument is None else source.argument


def _header_key(source: McpParam) -> bytes:
    return f"mcp-param-{source.name}".lower().encode()


@attrs.frozen
class McpParam(UidSource):
    """An argument of an MCP tool, such as a handle that another tool has returned.

    It is in the header ``Mcp-Param-<name>`` if the tool's schema says so (``x-mcp-header``), plain or as
    ``=?base64?...?=``; without that header it is looked for in the body. What a header says in a wrong encoding is
    not found.

    Attributes:
        name: behind ``Mcp-Param-``, in any case.
        argument: the name of the argument in the body, in its case; ``name`` if it is ``None``.
        limit: bytes of the longest body, 1 to 16 MiB; a longer one is refused (413): its id is not known.

    """

    name: str = attrs.field(validator=checked(check_token))
    argument: str | None = attrs.field(default=None, kw_only=True, validator=checked(_check_argument, optional=True))
    limit: int = attrs.field(default=BODY_LIMIT, kw_only=True, validator=checked(check_int, 1, MAX_BODY_LIMIT))
    _steps: tuple[str, ...] = derived(_argument_steps)
    _key: bytes = derived(_header_key)

    @property
    def body_limit(self) -> int:
        """Bytes of the body that it may need at most."""
        return self.limit

    def wants_body(self, request: RequestHead) -> bool:
        """Whether the header is not there, and the head allows for JSON, of whatever length."""
        return request.header(self._key) is None and request.may_have_json()

    def find(self, request: RequestHead) -> str | None:
        """Return the value of the header, decoded, or else of the argument in the body."""
        value = request.header(self._key)
        return _id_in(request, self._steps, self.limit) if value is None else _decoded(value)


def _decoded(value: str) -> str | None:
    """Return what a header says, as strictly as the official SDK reads it: the tool and we agree on the id."""
    if not (value.startswith(_ENCODED) and value.endswith(_END)):
        return value
    text = value[len(_ENCODED) : -len(_END)]
    try:
        decoded = base64.b64decode(text, validate=True)
        return decoded.decode() if base64.b64encode(decoded).decode() == text else None
    except ValueError:
        return None
