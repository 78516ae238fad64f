"""What is a valid argument, and seconds as milliseconds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import InvalidArgumentError
from stateful_route._validation import (
    as_float,
    check_count,
    check_duration,
    check_id,
    check_pod_index,
    check_seconds,
    to_ms,
    to_seconds,
)
from stateful_route.errors import StoreError


@pytest.mark.parametrize("value", ["a", " a ", "0", "{}", "x" * 512, "\u00e9" * 256, "\U0001f600", "a\x00b", "%"])
def test_ids(value: str) -> None:
    """An id is any text that is not blank, up to 512 bytes."""
    check_id("uid", value)


@given(st.text(st.characters(categories=["Cs", "Lu", "Zs"])))
def test_id_size(value: str) -> None:
    """What is blank, not encodable, or too long is refused, and nothing else."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError:
        encoded = b""
    if encoded.decode().strip() and len(encoded) <= 512:
        check_id("uid", value)
        return
    with pytest.raises(InvalidArgumentError) as caught:
        check_id("uid", value)

    assert ("uid", value) == (caught.value.argument, caught.value.value)


@pytest.mark.parametrize("value", [0, 1, 2**31 - 1])
def test_pod_index(value: int) -> None:
    """Pod 0 is a pod."""
    check_pod_index("pod_index", value)


@pytest.mark.parametrize("value", [-1, 2**53, True, 1.0, "1", None])
def test_count(value: Any) -> None:
    """A count is an int from 0 that Lua can carry."""
    check_count("load", 2**53 - 1)
    with pytest.raises(InvalidArgumentError, match="an int from 0 to 9007199254740991"):
        check_count("load", value)


@pytest.mark.parametrize(
    "value", [-0.1, float("nan"), float("inf"), True, "1", None, 10**400, 1e300], ids=lambda value: repr(value)[:10]
)
def test_seconds(value: Any) -> None:
    """A time is a finite number of seconds that Redis can take, from 0."""
    for good in (0, 0.0, 1, 0.5, 86400 * 365):
        check_seconds("grace", good)
    with pytest.raises(InvalidArgumentError, match="grace"):
        check_seconds("grace", value)
    with pytest.raises(InvalidArgumentError, match="grace"):
        check_duration("grace", value)


@pytest.mark.parametrize("value", [0, 0.0009])
def test_duration(value: float) -> None:
    """A duration is a millisecond at least."""
    check_duration("ttl", 0.001)
    with pytest.raises(InvalidArgumentError, match=r"from 0\.001"):
        check_duration("ttl", value)


@pytest.mark.parametrize(
    ("seconds", "ms"), [(0, 0), (0.001, 1), (0.0011, 2), (0.0005, 1), (1, 1000), (0.3, 300), (1.1, 1100), (2.007, 2007)]
)
def test_to_ms(seconds: float, ms: int) -> None:
    """Seconds become whole milliseconds, rounded up, but not by the noise of floats."""
    assert ms == to_ms(seconds)


@given(st.integers(0, 2**53 // 1000))
def test_to_seconds(ms: int) -> None:
    """Milliseconds come back as they were."""
    assert ms == to_ms(to_seconds(ms))


@pytest.mark.parametrize("value", [None, "1", True, [1]])
def test_as_float(value: Any) -> None:
    """An int becomes a float, and all else is left as it is."""
    assert (2.0, float) == (as_float(2), type(as_float(2)))
    assert value is as_float(value)


def test_error_is_short() -> None:
    """The text of an error does not carry a huge value whole; the error itself does."""
    error = InvalidArgumentError("uid", "x" * 10_000, "less")

    assert len(str(error)) < 300
    assert 10_000 == len(str(error.value))


@pytest.mark.parametrize(
    ("maybe_applied", "text"), [(True, "it may have been applied"), (False, "nothing was changed")]
)
def test_store_error(maybe_applied: bool, text: str) -> None:
    """A store error says in which operation it was, and whether that may have been applied."""
    error = StoreError("away", operation="place", maybe_applied=maybe_applied)

    assert f"place: away ({text})" == str(error)
    assert ("place", maybe_applied) == (error.operation, error.maybe_applied)
