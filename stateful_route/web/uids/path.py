"""Patterns of paths, as of ``Path`` and ``Location``."""

from __future__ import annotations

import re

from stateful_route.errors import InvalidArgumentError

_ALLOWED = (
    'a path from "/" on, not percent-encoded, whose segments are text or a name in braces, one of them {uid}: '
    'for example "/rooms/{uid}"'
)
_SEGMENT = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}|[^{}/?#%\x00-\x1f]+")


def compiled(pattern: object) -> re.Pattern[str]:
    """Return the pattern as a regular expression whose only group is the uid: of that path and of all below it.

    Raises:
        InvalidArgumentError: if it is no such pattern.

    """
    if not isinstance(pattern, str) or not pattern.startswith("/"):
        raise InvalidArgumentError("pattern", pattern, _ALLOWED)
    names: list[str] = []
    parts: list[str] = []
    for segment in pattern.removesuffix("/...").removesuffix("/").split("/")[1:]:
        match = _SEGMENT.fullmatch(segment)
        if match is None:
            raise InvalidArgumentError("pattern", pattern, _ALLOWED)
        name = match[1]
        parts.append(re.escape(segment) if name is None else "([^/]+)" if name == "uid" else "[^/]+")
        names.append(name or "")
    if names.count("uid") != 1:
        raise InvalidArgumentError("pattern", pattern, _ALLOWED)
    return re.compile("".join(f"/{part}" for part in parts) + r"(?=/|\Z)")
