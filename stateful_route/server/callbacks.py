"""What the application gives to be called, looked at when it is given: later it would fail once for each uid."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING

from stateful_route._validation import check_count
from stateful_route.errors import ConfigError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

_STATES = re.compile(r"\b(bytes|bytearray|memoryview)\b")


def check_hand_off(argument: str, value: object, *, adopts: bool) -> None:
    """Refuse what cannot be called with a uid, and a generator, of which nothing would run.

    Without an ``adopt`` that takes them, also what says by its annotation that it returns bytes: they would be lost.
    """
    allowed = "a function of a uid, async def or def, and no generator"
    _check(argument, value, allowed, "uid", refused=(inspect.isgeneratorfunction, inspect.isasyncgenfunction))
    returned = getattr(value, "__annotations__", {}).get("return")
    if not adopts and _STATES.search(returned.__name__ if isinstance(returned, type) else str(returned)):
        raise ConfigError(argument, value, "beside adopt=, which takes the bytes that it returns; or one without them")


def check_adopt(argument: str, value: object) -> None:
    """Refuse what cannot be called with a uid, a state and an epoch, and a generator, of which nothing would run."""
    allowed = "a function of uid, data and epoch, async def or def, and no generator"
    refused = (inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    _check(argument, value, allowed, "uid", b"", 1, refused=refused)


def check_travel(hand_off: object, adopt: object, carrier: object, max_state: int) -> None:
    """Refuse what does not go together.

    Raises:
        ConfigError: if one of three is missing.
        InvalidArgumentError: if ``adopt`` or ``max_state`` is none.

    """
    check_count("max_state", max_state)
    if adopt is None:
        if carrier is not None:
            raise ConfigError("carrier", carrier, "only beside adopt=, which takes what it carries")
        return
    check_adopt("adopt", adopt)
    if hand_off is None:
        raise ConfigError("adopt", adopt, "only beside hand_off=, which returns what is adopted")
    if carrier is None:
        allowed = (
            "what carries a state to another pod: an object with the methods of StateCarrier; "
            "stateful_route.testing.LocalCarrier() carries within a process, and StickyMiddleware has one of its own"
        )
        raise ConfigError("carrier", None, allowed)


def check_movable(argument: str, value: object) -> None:
    """Refuse what cannot be called with a count, and what would answer with a coroutine."""
    allowed = "a def of a count that returns uids, and no coroutine"
    _check(argument, value, allowed, 1, refused=(inspect.iscoroutinefunction, inspect.isasyncgenfunction))


def check_forget(argument: str, value: object) -> None:
    """Refuse what cannot be called with a uid, and what would have to be awaited."""
    refused = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    _check(argument, value, "a def of a uid, and no coroutine: nobody awaits it", "uid", refused=refused)


def check_on_lost(argument: str, value: object) -> None:
    """Refuse what cannot be called without arguments, and what would have to be awaited."""
    allowed = "a def without arguments, and no coroutine: nobody awaits it"
    refused = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
    _check(argument, value, allowed, refused=refused)


def _check(
    argument: str, value: object, allowed: str, *arguments: object, refused: tuple[Callable[[object], bool], ...]
) -> None:
    call = getattr(value, "__call__", None)  # noqa: B004 - to look at it, not to test for it
    if (
        call is None or any(is_such(value) or is_such(call) for is_such in refused) or not _takes(value, arguments)  # type: ignore[arg-type]  # it can be called
    ):
        raise InvalidArgumentError(argument, value, allowed)


def _takes(function: Callable[..., object], arguments: tuple[object, ...]) -> bool:
    """Whether the function can be called with such arguments, as far as it tells."""
    try:
        signature = inspect.signature(function, follow_wrapped=False)  # of a decorator it is its own that counts
    except (TypeError, ValueError):  # something built in, which does not tell
        return True
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True
