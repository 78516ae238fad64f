"""Any text from outside becomes an id, and no two principals share one."""

from __future__ import annotations

import time
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stateful_route._validation import check_id
from stateful_route.web.uids.normal import MAX_UID_BYTES, normalised, scoped

ANYTHING = st.text(st.characters(exclude_categories=[]), max_size=400)
# What makes trouble: marks that compose, white space, control characters, surrogates, what separates in ``scoped``.
NASTY = st.text(
    st.sampled_from("a1:-\u0301\u0316e\u2000\u2126\ufb01\ud800\udfff\x00\x85 \t\u00e9\U0001d160"), max_size=300
)


@pytest.mark.parametrize(
    ("raw", "uid"),
    [
        ("room-1", "room-1"),
        (" room-1\t", "room-1"),
        ("two words", "two words"),
        ("e\u0301", "\u00e9"),  # composed
        ("x" * 256, "x" * 256),
        ("\u00e9" * 128, "\u00e9" * 128),
        ("e\u0301" * 128, "\u00e9" * 128),  # 384 bytes as it came, 256 composed
        ("\U0001f469\u200d\U0001f4bb", "\U0001f469\u200d\U0001f4bb"),
    ],
)
def test_kept(raw: str, uid: str) -> None:
    """What can be an id stays readable: without white space around it, and composed."""
    assert uid == normalised(raw)


@pytest.mark.parametrize("raw", ["", " ", "\t\n", "\u2000\u2001", "\x1c\x85", " " * 5000])
def test_blank(raw: str) -> None:
    """What is blank is no id."""
    assert normalised(raw) is None


@pytest.mark.parametrize(
    "raw", ["x" * 257, "\u00e9" * 129, "a\x00b", "a\nb", "a\x7fb", "a\x85b", "\ud800", "x\udfff", "x" * 100_000]
)
def test_hashed(raw: str) -> None:
    """What is too long, cannot be encoded, or has control characters is hashed."""
    uid = normalised(raw)

    assert uid is not None
    assert uid.startswith("sha256-")
    assert len("sha256-") + 64 == len(uid)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("admin", "\u0430dmin"),  # a Cyrillic a
        ("fi", "\ufb01"),  # a ligature: NFKC would make them one
        ("1", "\uff11"),
        ("K", "\u212b"),
        ("Room", "room"),
        ("room", "ro\u200bom"),
        ("room", "room\x00"),
        ("x" * 257, "x" * 258),
        ("\ud800", "\udfff"),
        ("a b", "a\u00a0b"),
    ],
)
def test_alike(one: str, other: str) -> None:
    """What looks alike and is not the same stays apart."""
    assert normalised(one) != normalised(other)


@given(ANYTHING | NASTY)
@example("\u0344" * 64)
@example("\U0001d160" * 80)
def test_normalised(raw: str) -> None:
    """An id passes the check of the drivers, is at most 256 bytes, and is what it is if normalised again."""
    uid = normalised(raw)

    if uid is None:
        assert not raw.strip()
        return
    check_id("uid", uid)
    assert len(uid.encode()) <= MAX_UID_BYTES
    assert uid == normalised(uid)


@given(NASTY | ANYTHING)
def test_composed(raw: str) -> None:
    """The two ways to write a letter are one id, as long as they are short."""
    decomposed = unicodedata.normalize("NFD", raw)
    if len(raw) <= 512 and len(decomposed) <= 512:
        assert normalised(raw) == normalised(decomposed)


@given(st.text(st.characters(categories=["L", "N", "P", "S", "M"]), min_size=513, max_size=700))
def test_uncomposed(raw: str) -> None:
    """What is not composed, as it has more than 512 characters, has no composed form that is short enough."""
    assert len(unicodedata.normalize("NFC", raw).encode()) > MAX_UID_BYTES


def test_no_letter_is_longer() -> None:
    """Composing saves at most two characters of a letter with two bytes, and three of one with three."""
    # So 512 characters make 256 bytes at least: of each assigned letter, the characters that it is made of.
    for code in range(0x110000):
        letter = chr(code)
        parts = unicodedata.normalize("NFD", letter)
        if unicodedata.normalize("NFC", parts) == letter and len(parts) > 1:
            assert len(parts) < 2 * len(letter.encode()), hex(code)


def test_marks() -> None:
    """A text that is slow to compose is not composed: 200,000 combining marks take no time."""
    start = time.perf_counter()
    uid = normalised("a" + "\u0301\u0316" * 100_000)

    assert uid is not None
    assert time.perf_counter() - start < 1  # some 20 s if it were composed


def test_scoped_form() -> None:
    """A short id of a principal can be read."""
    assert scoped("alice", "room-1") == "5:alice:room-1"


PART = st.text(st.sampled_from("0123:a\u00e9\ud800\x00"), max_size=6) | st.text(
    st.sampled_from("1:a"), min_size=240, max_size=260
)


@given(PART, PART, PART, PART)
@example("a", "1:b:c", "a:1:b", "c")
@example("a:b", "c", "a", "b:c")
@example("", "a", "a", "")
def test_scoped_is_injective(principal: str, uid: str, another: str, other: str) -> None:
    """No two pairs of principal and uid have one id."""
    same = (principal, uid) == (another, other)

    assert same == (scoped(principal, uid) == scoped(another, other))


@given(ANYTHING | NASTY, ANYTHING | NASTY)
def test_scoped_is_an_id(principal: str, uid: str) -> None:
    """What belongs to somebody passes the check of the drivers, and has no more than 256 bytes."""
    result = scoped(principal, uid)

    check_id("uid", result)
    assert len(result.encode()) <= MAX_UID_BYTES


def test_scoped_is_no_hash_of_an_id() -> None:
    """A client cannot write the id of a principal's long one as an id of its own: all of them are within a scope."""
    long = scoped("alice", "x" * 300)

    assert long.startswith("sha256-")
    assert scoped("mallory", long) != long
