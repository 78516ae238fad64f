"""Claims of JSON web tokens: only what is signed by the key, in the algorithms that were named."""

from __future__ import annotations

import base64
import builtins
import json
import time
import traceback
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import strategies as st

from stateful_route import ConfigError, InvalidArgumentError
from stateful_route.web import Jwt
from stateful_route.web.uids.found import UidSources
from tests.unit.web_requests import request

KEY = "k" * 32
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PUBLIC = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
VERIFIED = Jwt("sub", key=KEY, algorithms=["HS256"])
UNVERIFIED = Jwt("sub", verify=False)


def part(value: Any) -> str:
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def signed(claims: dict[str, Any], key: Any = KEY, algorithm: str = "HS256") -> str:
    return jwt.encode(claims, key, algorithm)


def found(source: Jwt, token: str, *, scheme: str = "Bearer ") -> str | None:
    return source.find(request("/", ("authorization", f"{scheme}{token}")))


class TestVerified:
    """With a key."""

    def test_valid(self) -> None:
        """A claim of a valid token is found: a string, or a whole number."""
        assert found(VERIFIED, signed({"sub": "alice"})) == "alice"
        assert found(Jwt("uid", key=KEY, algorithms=["HS256"]), signed({"uid": 7})) == "7"
        # PyJWT refuses to read a subject that is a number, and many systems write one
        assert found(VERIFIED, f"{signed({'sub': 7})}") == "7"

    @pytest.mark.parametrize("claims", [{}, {"sub": None}, {"sub": True}, {"sub": 1.5}, {"sub": ["a"]}, {"sub": ""}])
    def test_no_id(self, claims: dict[str, Any]) -> None:
        """A claim that is not there, or no id, is not found."""
        assert not found(VERIFIED, signed(claims))

    def test_asymmetric(self) -> None:
        """A public key verifies, as PEM, as an object, and as a JWK."""
        token = signed({"sub": "alice"}, RSA, "RS256")
        jwk = jwt.PyJWK.from_json(jwt.algorithms.RSAAlgorithm.to_jwk(RSA.public_key()))

        for key in [PUBLIC, PUBLIC.decode(), RSA.public_key(), jwk]:
            assert found(Jwt("sub", key=key, algorithms=["RS256"]), token) == "alice"

    def test_forged(self) -> None:
        """A token with another signature, or with none, is not found."""
        good = signed({"sub": "alice"})
        head, claims, signature = good.split(".")
        for token in [
            signed({"sub": "alice"}, "x" * 32),
            f"{head}.{part({'sub': 'mallory'})}.{signature}",
            f"{head}.{claims}.",
            f"{head}.{claims}",
            f"{head}.{claims}.{signature[:-2]}",
            f"{head}.{claims}.{signature}.{signature}",
            f"{part({'alg': 'none'})}.{part({'sub': 'mallory'})}.",
            f"{part({'alg': 'None'})}.{part({'sub': 'mallory'})}.",
            f"{part({'alg': 'nOnE', 'typ': 'JWT'})}.{part({'sub': 'mallory'})}.{signature}",
            f"{part({})}.{claims}.{signature}",
            f"{part({'alg': ['HS256']})}.{claims}.{signature}",
            f"{part({'alg': {}})}.{claims}.{signature}",
            f"{part({'alg': 'HS256', 'crit': ['x'], 'x': 1})}.{claims}.{signature}",
            f"{part({'alg': 'HS256', 'b64': False})}..{signature}",
            f"{part(b'[' * 20_000)}.{claims}.{signature}",
            signed({"sub": "mallory"}, KEY * 2, "HS512"),  # an algorithm that was not named
            "",
            "..",
            "a.b.c",
            "\xff.\xff.\xff",
        ]:
            assert found(VERIFIED, token) is None, token[:80]

    def test_confusion(self) -> None:
        """The public key of RS256 is no secret of HS256: a token that is signed with it is not found."""
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
        signing = f"{part({'alg': 'HS256'})}.{part({'sub': 'mallory'})}"
        token = f"{signing}.{part(signature.sign(signing.encode(), PUBLIC))}"

        assert found(Jwt("sub", key=PUBLIC, algorithms=["RS256"]), token) is None

    def test_times(self) -> None:
        """A token out of its time is not found; clocks may differ by the leeway."""
        now = time.time()

        assert found(VERIFIED, signed({"sub": "a", "exp": now + 60, "nbf": now - 60})) == "a"
        assert found(VERIFIED, signed({"sub": "a", "exp": now - 60})) is None
        assert found(VERIFIED, signed({"sub": "a", "nbf": now + 60})) is None
        patient = Jwt("sub", key=KEY, algorithms=["HS256"], leeway=120)
        assert found(patient, signed({"sub": "a", "exp": now - 60})) == "a"

    def test_audience_and_issuer(self) -> None:
        """They are looked at if they are given, and then they have to be there."""
        token = signed({"sub": "a", "aud": ["us", "them"], "iss": "issuer"})
        settings: dict[str, Any] = {"key": KEY, "algorithms": ["HS256"]}

        assert found(VERIFIED, token) == "a"
        assert found(Jwt("sub", audience="us", issuer="issuer", **settings), token) == "a"
        assert found(Jwt("sub", audience="others", **settings), token) is None
        assert found(Jwt("sub", issuer="others", **settings), token) is None
        assert found(Jwt("sub", audience="us", **settings), signed({"sub": "a"})) is None

    @pytest.mark.parametrize("claim", ["exp", "nbf", "iat", "aud", "iss", "jti"])
    @pytest.mark.parametrize("value", ["x", "1e999", "[]", "{}", "null", "-1e308", '"x"', "9" * 5000])
    def test_odd_claims(self, claim: str, value: str) -> None:
        """Whatever a signed token claims, nothing raises."""
        token = jwt.PyJWS().encode(f'{{"sub": "a", "{claim}": {value}}}'.encode(), KEY, "HS256")

        assert found(VERIFIED, token) in {None, "a"}

    @given(st.text(st.characters(max_codepoint=255), max_size=60))
    def test_survives(self, token: str) -> None:
        """No token raises."""
        assert found(VERIFIED, token) is None


class TestUnverified:
    """Without a key, said so."""

    def test_any(self) -> None:
        """A claim is read, whoever signed it."""
        assert found(UNVERIFIED, signed({"sub": "alice"}, "x" * 32)) == "alice"
        assert found(UNVERIFIED, f"{part({'alg': 'none'})}.{part({'sub': 7})}.") == "7"
        assert found(UNVERIFIED, signed({"sub": "alice", "exp": 1})) == "alice"

    @pytest.mark.parametrize(
        "token",
        [
            "",
            "a",
            "a.b",
            "..",
            "a.b.c",
            "a.e30.c.d",
            f"a.{part({})}.c",
            f"a.{part([])}.c",
            f"a.{part(b'{')}.c",
            f"a.{part(b'[' * 50_000)}.c",
            f"a.{part(b'[]' * 50_000)}.c",
            "a.e30==.c",
            "a.{}.c",
            "a.\u00e9.c",
            f"a.{part({'sub': {'sub': 'x'}})}.c",
        ],
        ids=range(15),
    )
    def test_none(self, token: str) -> None:
        """What is no token has no claims."""
        assert found(UNVERIFIED, token) is None

    @given(st.binary(max_size=60))
    def test_survives(self, claims: bytes) -> None:
        """No claims raise."""
        uid = found(UNVERIFIED, f"a.{part(claims)}.c")

        assert uid is None or isinstance(uid, str)


class TestPlaces:
    """Where the token is."""

    @pytest.mark.parametrize(
        ("value", "uid"),
        [("Bearer {}", "a"), ("bearer {}", "a"), ("BEARER   {}", "a"), ("{}", "a"), ("Basic {}", None)],
    )
    def test_header(self, value: str, uid: str | None) -> None:
        """A header holds it alone, or behind Bearer."""
        head = request("/", ("Authorization", value.format(signed({"sub": "a"}))))

        assert uid == VERIFIED.find(head)

    def test_other_header(self) -> None:
        """The header may be another one."""
        source = Jwt("sub", header="X-Token", verify=False)

        assert source.find(request("/", ("x-token", signed({"sub": "a"})))) == "a"
        assert source.find(request("/", ("authorization", signed({"sub": "a"})))) is None

    def test_cookie(self) -> None:
        """A cookie holds it, if the header does not."""
        both = Jwt("sub", cookie="token", verify=False)
        cookie = ("cookie", f"token={signed({'sub': 'of the cookie'})}")

        assert both.find(request("/", cookie)) == "of the cookie"
        assert both.find(request("/", cookie, ("authorization", signed({"sub": "a"})))) == "a"
        assert Jwt("sub", header=None, cookie="token", verify=False).find(request("/", cookie)) == "of the cookie"
        assert both.find(request("/")) is None


class TestSettings:
    """What is wrong is told at start, and without the key."""

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({}, "key is None; allowed is the key .* or verify=False"),
            ({"algorithms": ["HS256"]}, "key is None"),
            ({"key": KEY}, "algorithms is None"),
            ({"key": KEY, "algorithms": []}, "algorithms is"),
            ({"key": KEY, "algorithms": "HS256"}, "algorithms is"),
            ({"key": KEY, "algorithms": 7}, "algorithms is"),
            ({"key": KEY, "algorithms": ["none"]}, "algorithms is 'none'; allowed is any of .*HS256"),
            ({"key": KEY, "algorithms": ["HS256", "none"]}, "algorithms is 'none'"),
            ({"key": KEY, "algorithms": [["HS256"]]}, "algorithms is"),
            ({"key": KEY, "algorithms": ["RS256"]}, "a key for RS256"),
            ({"key": PUBLIC, "algorithms": ["HS256"]}, "a key for HS256"),
            ({"key": PUBLIC, "algorithms": ["RS256", "HS256"]}, "a key for HS256"),
            ({"key": PUBLIC, "algorithms": ["RS256", "ES256"]}, "a key for ES256"),
            ({"key": object(), "algorithms": ["HS256"]}, "a key for HS256"),
            ({"key": "hunter2", "algorithms": ["HS256"]}, "long enough for HS256: 32 bytes"),
            ({"key": KEY, "algorithms": ["HS256", "HS512"]}, "long enough for HS512: 64 bytes"),
            ({"key": ec.generate_private_key(ec.SECP256R1()).public_key(), "algorithms": ["RS256"]}, "a key for RS256"),
            ({"verify": False, "key": KEY}, "verify is False"),
            ({"verify": False, "algorithms": ["HS256"]}, "verify is False"),
            ({"verify": False, "audience": "us"}, "verify is False"),
            ({"verify": False, "header": None}, "header is None"),
        ],
    )
    def test_config(self, settings: dict[str, Any], message: str) -> None:
        """A key, its algorithms, or an explicit no: one of them has to be there, and has to fit."""
        with pytest.raises(ConfigError, match=message) as caught:
            Jwt("sub", **settings)

        shown = "".join(traceback.format_exception(caught.value))
        assert "hunter2" not in shown
        assert KEY not in shown

    @pytest.mark.parametrize(
        "settings",
        [
            {"claim": ""},
            {"claim": None},
            {"header": "a b"},
            {"cookie": ""},
            {"verify": None},
            {"audience": 7},
            {"issuer": ""},
            {"leeway": -1},
        ],
    )
    def test_refused(self, settings: dict[str, Any]) -> None:
        """What is of a wrong type or range is refused by its name."""
        with pytest.raises(InvalidArgumentError, match=next(iter(settings))):
            Jwt(**{"claim": "sub", "key": KEY, "algorithms": ["HS256"], **settings})

    def test_extra(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without PyJWT the message names the extra; what is not verified does not need it."""
        real = builtins.__import__

        def without(name: str, *args: Any) -> Any:
            if name == "jwt":
                raise ImportError(name)
            return real(name, *args)

        monkeypatch.setattr(builtins, "__import__", without)
        with pytest.raises(ConfigError, match=r"stateful-route\[web\]"):
            Jwt("sub", key=KEY, algorithms=["HS256"])
        assert Jwt("sub", verify=False)

    def test_hidden(self) -> None:
        """No repr shows the key."""
        assert KEY not in repr(VERIFIED)
        assert hash(VERIFIED) == hash(Jwt("sub", key=KEY, algorithms=["HS256"]))


def test_scope() -> None:
    """A principal is whom the key has signed for: an id of alice is nobody else's."""
    sources = UidSources(Jwt("room", verify=False), scope=VERIFIED)
    alice, mallory = signed({"sub": "alice", "room": "7"}), signed({"sub": "mallory", "room": "7"})
    uids = [sources.find(request("/", ("authorization", token))) for token in (alice, mallory, f"{alice}x")]

    assert [uid and uid.uid for uid in uids] == ["5:alice:7", "7:mallory:7", None]
