"""What is a valid argument: one definition each, raised as ``InvalidArgumentError``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from stateful_route.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

    import attrs

MAX_ID_BYTES = 512
MAX_POD_INDEX = 2**31 - 1
# The largest integer that Lua, whose numbers are doubles, carries without loss.
MAX_EXACT_INT = 2**53 - 1

_ID_ALLOWED = f"a string with something other than white space, of at most {MAX_ID_BYTES} bytes as UTF-8"


def check_id(argument: str, value: object) -> None:
    """Refuse what is not an id: not a string, blank, over-long, or not encodable as UTF-8."""
    if not isinstance(value, str) or not value or value.isspace():
        raise InvalidArgumentError(argument, value, _ID_ALLOWED)
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidArgumentError(argument, value, f"{_ID_ALLOWED}, without lone surrogates") from None
    if size > MAX_ID_BYTES:
        raise InvalidArgumentError(argument, value, _ID_ALLOWED)


def check_pod_index(argument: str, value: object) -> None:
    """Refuse what is not the index of a pod: 0 to 2**31 - 1, and no bool."""
    check_int(argument, value, 0, MAX_POD_INDEX)


def check_count(argument: str, value: object) -> None:
    """Refuse what is not a count or a load: an int from 0 that Lua can carry, and no bool."""
    check_int(argument, value, 0, MAX_EXACT_INT)


def check_int(argument: str, value: object, low: int, high: int) -> None:
    """Refuse what is not an int in ``low..high``; a bool is not an int here."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidArgumentError(argument, value, f"an int from {low} to {high}")


def check_seconds(argument: str, value: object) -> None:
    """Refuse what is not a time of 0 or more seconds: NaN, infinite, negative, a bool, another type."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise InvalidArgumentError(argument, value, "a finite number of seconds, 0 or more")


def check_duration(argument: str, value: object) -> None:
    """Refuse what is not a span of at least a millisecond, in seconds."""
    check_seconds(argument, value)
    if not isinstance(value, int | float) or value < 0.001:  # noqa: PLR2004 - the resolution of Redis
        raise InvalidArgumentError(argument, value, "a finite number of seconds, 0.001 or more")


def to_ms(seconds: float) -> int:
    """Convert seconds to whole milliseconds, rounded up: the one place where the units meet."""
    return math.ceil(round(seconds * 1000, 6))


def to_seconds(ms: int) -> float:
    """Convert milliseconds to seconds."""
    return ms / 1000


def as_float(value: float) -> float:
    """Convert an int to a float; leave all else, be it no number, to the check that follows."""
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def checked(
    check: Callable[..., None], *args: object, optional: bool = False
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Make an attrs validator of a check; with ``optional``, ``None`` passes."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not (optional and value is None):
            check(attribute.name, value, *args)

    return validate
