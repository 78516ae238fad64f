"""What is a valid argument: one definition each, raised as ``InvalidArgumentError``."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING, Any

from stateful_route.errors import InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import attrs

MAX_ID_BYTES = 512
MAX_POD_INDEX = 2**31 - 1
# The largest integer that Lua, whose numbers are doubles, carries without loss.
MAX_EXACT_INT = 2**53 - 1
# Some 3,000 years: any time that is meant fits, and in milliseconds Lua carries it without loss.
MAX_SECONDS = 1e11
# That of the times in Redis.
RESOLUTION = 0.001

_ID_ALLOWED = "a string with something other than white space, of at most {} bytes as UTF-8"


def check_id(argument: str, value: object, *, longest: int = MAX_ID_BYTES) -> None:
    """Refuse what is not an id: not a string, blank, of more than ``longest`` bytes, or not encodable as UTF-8."""
    if not isinstance(value, str) or not value or value.isspace():
        raise InvalidArgumentError(argument, value, _ID_ALLOWED.format(longest))
    if value.isascii():
        size = len(value)
    else:
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            allowed = f"{_ID_ALLOWED.format(longest)}, without lone surrogates"
            raise InvalidArgumentError(argument, value, allowed) from None
    if size > longest:
        raise InvalidArgumentError(argument, value, _ID_ALLOWED.format(longest))


def check_callable(argument: str, value: object) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise InvalidArgumentError(argument, value, "a callable")


def check_hook(argument: str, value: object, methods: Sequence[str]) -> None:
    """Refuse an object, or a class, with none of these methods."""
    if isinstance(value, type) or not any(callable(getattr(value, name, None)) for name in methods):
        raise InvalidArgumentError(argument, value, f"an object with any of the methods {', '.join(methods)}")


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


def check_number(argument: str, value: object, allowed: str) -> float:
    """Return the number; refuse what is not one of 0 to 1e11: NaN, infinite, a bool, another type."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise InvalidArgumentError(argument, value, allowed)
    return float(value)


def check_bool(argument: str, value: object) -> None:
    """Refuse what is not a bool."""
    if not isinstance(value, bool):
        raise InvalidArgumentError(argument, value, "True or False")


def check_seconds(argument: str, value: object) -> None:
    """Refuse what is not a time of 0 to 1e11 seconds."""
    check_number(argument, value, f"a number of seconds from 0 to {MAX_SECONDS:g}")


def check_duration(argument: str, value: object) -> None:
    """Refuse what is not a span of a millisecond to 1e11 seconds."""
    allowed = f"a number of seconds from {RESOLUTION:g} to {MAX_SECONDS:g}"
    if check_number(argument, value, allowed) < RESOLUTION:
        raise InvalidArgumentError(argument, value, allowed)


def check_capacity(argument: str, value: object) -> None:
    """Refuse what is not the size of a pod in relation to others: a finite number above 0."""
    allowed = f"a number above 0, up to {MAX_SECONDS:g}"
    if check_number(argument, value, allowed) == 0:
        raise InvalidArgumentError(argument, value, allowed)


def check_rate(argument: str, value: object) -> None:
    """Refuse what is not a rate: a finite number above 0."""
    check_capacity(argument, value)


def check_fraction(argument: str, value: object) -> None:
    """Refuse what is not a share: a number from 0 to 1."""
    allowed = "a number from 0 to 1"
    if check_number(argument, value, allowed) > 1:
        raise InvalidArgumentError(argument, value, allowed)


@functools.lru_cache(maxsize=256)  # almost all are settings
def to_ms(seconds: float) -> int:
    """Convert seconds to whole milliseconds, rounded up, but not by the noise of floats: here the units meet."""
    ms = seconds * 1000
    nearest = round(ms)
    return nearest if abs(ms - nearest) <= 4 * math.ulp(ms) else math.ceil(ms)


def to_seconds(ms: int) -> float:
    """Convert milliseconds to seconds."""
    return ms / 1000


def as_float(value: float) -> float:
    """Convert an int to a float; leave all else, be it no number or too large, to the check that follows."""
    convertible = isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_EXACT_INT
    return float(value) if convertible else value


def is_count(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is not a count, as ``check_count`` does; an attrs validator for what is made all the time."""
    if type(value) is not int or not 0 <= value <= MAX_EXACT_INT:
        check_count(attribute.name, value)


def is_capacity(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is not the size of a pod, as ``check_capacity`` does; an attrs validator as well."""
    if type(value) is not float or not 0 < value <= MAX_SECONDS:
        check_capacity(attribute.name, value)


def is_bool(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
    """Refuse what is not a bool; an attrs validator as well."""
    if value is not True and value is not False:
        check_bool(attribute.name, value)


def checked(
    check: Callable[..., None], *args: object, optional: bool = False
) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """Make an attrs validator of a check; with ``optional``, ``None`` passes."""

    def validate(_instance: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not (optional and value is None):
            check(attribute.name, value, *args)

    return validate
