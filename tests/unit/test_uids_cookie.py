"""Ids that we make ourselves: nobody else can make one, and they survive a change of secrets."""

from __future__ import annotations

import base64
import re
import traceback
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import ConfigError, InvalidArgumentError
from stateful_route.web import RequestHead, SignedCookie
from stateful_route.web.uids.issued import Issued
from stateful_route.web.uids.normal import normalised
from tests.unit.web_requests import cookies, request

OLD, NEW, OTHER = "old-secret-old-secret", "new-secret-new-secret", "not-ours-not-ours"
COOKIE = SignedCookie("sr", secrets=[NEW, OLD])


def value_of(cookie: SignedCookie, uid: str) -> str:
    return cookie.issue(uid).decode().partition(";")[0].partition("=")[2]


def sent(*values: str, name: str = "sr") -> RequestHead:
    return request("/", *cookies(*[f"{name}={value}" for value in values]))


class TestSigned:
    """What is valid, and what is not."""

    def test_round_trip(self) -> None:
        """What was issued is found."""
        uid = COOKIE.new_uid()

        assert Issued(uid) == COOKIE.read(sent(value_of(COOKIE, uid)))
        assert uid == COOKIE.find(sent(value_of(COOKIE, uid)))

    def test_value(self) -> None:
        """The value is the uid, and an HMAC-SHA256 as base64url; it stays the same from release to release."""
        assert value_of(SignedCookie("sr", secrets=["s" * 16]), "a") == (
            "a.oJUnnPlh32gWGIugwhLXnK-tGGpWB02W_DvaTpa9Cbg"
        )

    def test_new_uid(self) -> None:
        """A new uid is of 128 random bits, and is one that all else can carry."""
        uids = {COOKIE.new_uid() for _ in range(1000)}

        assert len(uids) == 1000
        assert all(re.fullmatch(r"[A-Za-z0-9_-]{22}", uid) and uid == normalised(uid) for uid in uids)

    def test_rotation(self) -> None:
        """An older secret verifies, and what it signed is stale; one that was dropped verifies nothing."""
        before = value_of(SignedCookie("sr", secrets=[OLD]), "abc")

        assert Issued("abc", stale=True) == COOKIE.read(sent(before))
        assert SignedCookie("sr", secrets=[NEW]).read(sent(before)) is None
        assert Issued("abc") == COOKIE.read(sent(value_of(COOKIE, "abc")))

    def test_text_and_bytes(self) -> None:
        """A secret is the same as text and as bytes."""
        one = SignedCookie("sr", secrets=["\u00e9" * 16])
        other = SignedCookie("sr", secrets=["\u00e9".encode() * 16])

        assert one.issue("abc") == other.issue("abc")

    @pytest.mark.parametrize("uid", ["a.b", "alice@example.com", "x" * 256, "a=b", "."])
    def test_other_uids(self, uid: str) -> None:
        """A uid may have dots and signs: the signature is behind the last dot."""
        assert Issued(uid) == COOKIE.read(sent(value_of(COOKIE, uid)))

    @pytest.mark.parametrize(
        "uid", ["", " ", "a b", "a;b", "a,b", 'a"b', "a\\b", "a\r\nSet-Cookie: b", "\u00e9", "x" * 257, None, 7]
    )
    def test_refused_uids(self, uid: Any) -> None:
        """What a cookie cannot hold is not issued."""
        with pytest.raises(InvalidArgumentError, match="uid is"):
            COOKIE.issue(uid)

    def test_tossed(self) -> None:
        """A cookie of that name, put in front by a neighbouring domain, hides nothing."""
        valid = value_of(COOKIE, "abc")

        assert Issued("abc") == COOKIE.read(sent("garbage", "x.y", valid))
        assert Issued("abc") == COOKIE.read(request("/", *cookies(f"sr=garbage; sr={valid}; sr=z")))


def forged() -> list[str]:
    valid = value_of(COOKIE, "abc")
    uid, _, signature = valid.rpartition(".")
    last = signature[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    same_bits = alphabet[alphabet.index(last) ^ 1]  # the last character has two bits that mean nothing
    return [
        "",
        ".",
        "abc",
        "abc.",
        f".{signature}",
        signature,
        valid[:-1],
        f"{valid}=",
        f"{valid}A",
        f"abc.{signature[:-1]}{same_bits}",
        f"abd.{signature}",
        f"ABC.{signature}",
        f"abc .{signature}",
        f"abc..{signature}",
        f"abc.{signature.swapcase()}",
        f"abc.{signature.replace('-', '+').replace('_', '/')}="[:47],
        f"abc.{'A' * 43}",
        "abc." + "\u00e9" * 43,
        f"ab\u00e7.{signature}",
        f"{uid}.{base64.urlsafe_b64encode(b'x' * 32).decode().rstrip('=')}",
        value_of(SignedCookie("sr", secrets=[OTHER]), "abc"),
        value_of(SignedCookie("other", secrets=[NEW]), "abc"),  # of our own, for another cookie
        value_of(SignedCookie("s", secrets=[NEW]), "rabc"),
    ]


@pytest.mark.parametrize("value", forged())
def test_forged(value: str) -> None:
    """What is changed, truncated, of another secret or of another cookie is not found."""
    assert COOKIE.read(sent(value)) is None


@given(st.text(st.characters(max_codepoint=255), max_size=80))
def test_survives(value: str) -> None:
    """No value raises, and none is valid by chance."""
    assert COOKIE.read(sent(value)) is None
    assert COOKIE.read(sent(f'"{value}.{"A" * 43}"')) is None


@given(st.integers(0, 46), st.sampled_from("ABCabc019-_.="))
def test_each_character_counts(place: int, char: str) -> None:
    """No character of a value can be another one."""
    valid = value_of(COOKIE, "abc")
    changed = valid[:place] + char + valid[place + 1 :]

    assert (changed == valid) == (COOKIE.read(sent(changed)) is not None)


class TestAttributes:
    """What a browser is told."""

    @pytest.mark.parametrize(
        ("settings", "attributes"),
        [
            ({}, "Path=/; HttpOnly; Secure; SameSite=Lax"),
            ({"max_age": 60}, "Path=/; Max-Age=60; HttpOnly; Secure; SameSite=Lax"),
            (
                {"same_site": "none", "partitioned": True},
                "Path=/; HttpOnly; Secure; SameSite=None; Partitioned",
            ),
            (
                {"path": "/app", "domain": "example.com", "same_site": "strict"},
                "Path=/app; Domain=example.com; HttpOnly; Secure; SameSite=Strict",
            ),
            ({"secure": False}, "Path=/; HttpOnly; SameSite=Lax"),
        ],
    )
    def test_attributes(self, settings: dict[str, Any], attributes: str) -> None:
        """Scripts never see it; all else is as set."""
        header = SignedCookie("sr", secrets=[NEW], **settings).issue("abc").decode()

        assert attributes == header.partition("; ")[2]

    @pytest.mark.parametrize(
        "settings",
        [
            {"max_age": 0},
            {"max_age": 1.5},
            {"path": "app"},
            {"path": "/a;b"},
            {"path": "/\r\n"},
            {"domain": ""},
            {"domain": "a;b"},
            {"domain": "example.com:80"},
            {"same_site": "Lax"},
            {"same_site": None},
            {"secure": 1},
            {"partitioned": None},
            {"name": "s r"},
            {"name": ""},
            {"name": None},
        ],
    )
    def test_refused(self, settings: dict[str, Any]) -> None:
        """What would be no cookie is refused by its name."""
        with pytest.raises(InvalidArgumentError, match=next(iter(settings))):
            SignedCookie(**{"name": "sr", "secrets": [NEW], **settings})

    @pytest.mark.parametrize(
        "settings",
        [
            {"same_site": "none", "secure": False},
            {"partitioned": True, "secure": False},
            {"name": "__Host-sr", "secure": False},
            {"name": "__Secure-sr", "secure": False},
            {"name": "__Host-sr", "path": "/app"},
            {"name": "__host-sr", "domain": "example.com"},
        ],
    )
    def test_browsers_would_refuse(self, settings: dict[str, Any]) -> None:
        """What a browser silently drops is an error at start."""
        with pytest.raises(ConfigError, match="SignedCookie"):
            SignedCookie(**{"name": "sr", "secrets": [NEW], **settings})

    def test_prefixes(self) -> None:
        """A prefix that fits is allowed."""
        assert SignedCookie("__Host-sr", secrets=[NEW]).issue("a").startswith(b"__Host-sr=a.")


class TestSecrets:
    """What a secret is, and that it is never shown."""

    @pytest.mark.parametrize(
        "secrets", [[], None, NEW, NEW.encode(), ["short"], [NEW, "x" * 15], [NEW, None], [b""], [7], {NEW: 1}]
    )
    def test_refused(self, secrets: Any) -> None:
        """A secret has 16 bytes at least, and what was given is not in the message."""
        with pytest.raises(ConfigError, match=r"SignedCookie\.secrets is '\(hidden\)'; .* 16 bytes") as caught:
            SignedCookie("sr", secrets=secrets)

        shown = "".join(traceback.format_exception(caught.value))
        assert NEW not in shown
        assert "short" not in shown

    def test_hidden(self) -> None:
        """No repr shows one."""
        assert NEW not in repr(COOKIE)
        assert "sr" in repr(COOKIE)
