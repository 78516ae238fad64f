"""Whether a request says two things of its length: somebody in front may have read it as another one, or as two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

AMBIGUOUS = 400
WHY_AMBIGUOUS = "the request says two things of its length"

_LENGTH, _CODING = b"content-length", b"transfer-encoding"
_FRAMING = frozenset({_LENGTH, _CODING})
# What has a body rarely.
_BODILESS = frozenset({"GET", "HEAD"})


def seems_ambiguous(scope: Mapping[str, Any]) -> bool:
    """Whether a request is ambiguous, looked at as briefly as can be: it is done with each one.

    That a GET or a HEAD has several lengths is not seen.
    """
    headers = scope["headers"]
    if scope.get("method") in _BODILESS:
        for name, _ in headers:
            if name == _CODING:
                break
        else:
            return False
    return is_ambiguous(headers)


def is_ambiguous(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether there is a ``Content-Length`` with a ``Transfer-Encoding``, or are several that differ.

    A proxy in front may have gone by the other one: what is a body to it is the next request to us (RFC 9112, 6.3).
    Names are in lower case, as ASGI gives them.
    """
    told = [(name, value) for name, value in headers if name in _FRAMING]
    if len(told) < 2:  # noqa: PLR2004 - two things
        return False
    lengths = {part.strip() for name, value in told if name == _LENGTH for part in value.split(b",")}
    return len(lengths) > 1 or (bool(lengths) and any(name == _CODING for name, _ in told))
