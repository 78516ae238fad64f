"""Ids in JSON: what a pointer names, if it is there and can be an id."""

from __future__ import annotations

import json
import re
from typing import Any

from stateful_route.errors import InvalidArgumentError

BODY_LIMIT = 1024 * 1024
"""Bytes of the longest body that may have an id in it, unless a source says otherwise."""

MAX_BODY_LIMIT = 16 * 1024 * 1024
"""More is no place for an id: it is held in memory for each request in flight, and parsed in the event loop."""

_POINTER = re.compile(r"(?:/(?:[^~/]|~[01])*)+")
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def parsed(text: bytes | None) -> Any | None:
    """Return the value of a JSON text; ``None`` if there is none, or if it is not JSON, too deep, or not readable."""
    if not text:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def steps_of(pointer: object) -> tuple[str, ...]:
    """Return the steps of a JSON pointer (RFC 6901).

    Raises:
        InvalidArgumentError: if it is none, or is the whole text, which is no id.

    """
    if not isinstance(pointer, str) or not _POINTER.fullmatch(pointer):
        raise InvalidArgumentError("pointer", pointer, 'a JSON pointer (RFC 6901), for example "/params/id"')
    return tuple(step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:])


def id_at(value: Any, steps: tuple[str, ...]) -> str | None:
    """Return the string or the whole number to which the steps lead; ``None`` if there is nothing, or another type."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and _INDEX.fullmatch(step) and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return as_id(value)


def as_id(value: Any) -> str | None:
    """Return a string, or a whole number as digits; ``None`` of anything else: a bool is no id."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def is_json(content_type: str | None) -> bool:
    """Whether a media type is that of JSON: ``application/json``, ``text/json``, or one that ends in ``+json``."""
    if content_type is None:
        return False
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type in {"application/json", "text/json"} or media_type.endswith("+json")
