"""A claim of a JSON web token as a uid, or as the principal that uids belong to."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._validation import check_bool, check_seconds, checked
from stateful_route.errors import ConfigError, InvalidArgumentError
from stateful_route.web.uids.json_text import as_id, parsed
from stateful_route.web.uids.sources import UidSource, check_token, derived, lower_case

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from stateful_route.web.uids.request import RequestHead

_SCHEME = "bearer "
_NO_KEY = "the key that signs the tokens, with algorithms=[...]; or verify=False, said explicitly"
_HIDDEN = "(hidden)"


def _check_claim(argument: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(argument, value, 'the name of a claim, for example "sub"')


def _as_names(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple | set | frozenset) else value


def _claims_of(source: Jwt) -> Callable[[str], Mapping[str, Any] | None]:
    if source.header is None and source.cookie is None:
        raise ConfigError("Jwt.header", None, "a header, or a cookie: one of them holds the token")
    if source.verify:
        return _verifier(source)
    if any(given is not None for given in (source.key, source.algorithms, source.audience, source.issuer)):
        raise ConfigError("Jwt.verify", False, "True with a key, algorithms, an audience or an issuer")  # noqa: FBT003
    return _unverified


def _encoded(source: Jwt) -> bytes | None:
    return source.header.encode() if source.header is not None else None


@attrs.frozen
class Jwt(UidSource):
    """A string or a whole number among the claims of a JSON web token.

    A token with a wrong or missing signature, of another algorithm, or out of its time (``exp``, ``nbf``, ``iat``) is
    not found; to refuse it is left to the application. ``alg: none`` is never accepted where tokens are verified.

    Attributes:
        claim: its name; no path.
        header: that holds the token, alone or behind ``Bearer``; ``None``: none.
        cookie: that holds it, if the header does not; ``None``: none.
        key: what PyJWT takes to verify: a secret of 32 bytes or more for HS256, a public key as PEM, a ``PyJWK``.
        algorithms: that are accepted, for example ``["RS256"]``; needed with ``key``. Never take them from a token.
        verify: ``False`` reads the claim without looking at signature and times: anybody can then write any claim. That
            is enough to choose a pod, if the application verifies the token itself, and for ``scope`` only behind a
            proxy that has verified it.
        audience: one of those that a token has to be for (``aud``); ``None``: not looked at.
        issuer: who has to have issued it (``iss``); ``None``: not looked at.
        leeway: seconds by which the clocks may differ.

    Raises:
        ConfigError: with neither a key nor ``verify=False``, or both; without header and cookie; if the key does not
            fit the algorithms, or is too short for them (RFC 7518); if PyJWT is not installed (extra ``web``), or
            lacks ``cryptography``.

    """

    claim: str = attrs.field(validator=checked(_check_claim))
    header: str | None = attrs.field(
        default="authorization", kw_only=True, converter=lower_case, validator=checked(check_token, optional=True)
    )
    cookie: str | None = attrs.field(default=None, kw_only=True, validator=checked(check_token, optional=True))
    key: Any = attrs.field(default=None, kw_only=True, repr=False, hash=False)
    algorithms: tuple[str, ...] | None = attrs.field(default=None, kw_only=True, converter=_as_names)
    verify: bool = attrs.field(default=True, kw_only=True, validator=checked(check_bool))
    audience: str | None = attrs.field(default=None, kw_only=True, validator=checked(_check_claim, optional=True))
    issuer: str | None = attrs.field(default=None, kw_only=True, validator=checked(_check_claim, optional=True))
    leeway: float = attrs.field(default=0.0, kw_only=True, validator=checked(check_seconds))
    _claims: Callable[[str], Mapping[str, Any] | None] = derived(_claims_of)  # noqa: RUF009 - of attrs
    _key_of_header: bytes | None = derived(_encoded)

    def find(self, request: RequestHead) -> str | None:
        """Return the value of the claim."""
        token = self._token(request)
        claims = self._claims(token) if token else None
        return as_id(claims.get(self.claim)) if claims else None

    def _token(self, request: RequestHead) -> str | None:
        value = request.header(self._key_of_header) if self._key_of_header is not None else None
        if value:
            return value[len(_SCHEME) :].strip() if value[: len(_SCHEME)].lower() == _SCHEME else value
        return request.cookies().get(self.cookie) if self.cookie is not None else None


def _unverified(token: str) -> dict[str, Any] | None:
    """Return the claims, whoever wrote them."""
    parts = token.split(".")
    if len(parts) != 3:  # noqa: PLR2004 - header, claims, signature
        return None
    try:
        text = base64.b64decode(parts[1] + "=" * (-len(parts[1]) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    claims = parsed(text)
    return claims if isinstance(claims, dict) else None


def _verifier(source: Jwt) -> Callable[[str], Mapping[str, Any] | None]:
    """Return a function that gives the claims of a valid token, after a look at all that it needs."""
    if source.key is None:
        raise ConfigError("Jwt.key", None, _NO_KEY)
    algorithms = source.algorithms
    if not isinstance(algorithms, tuple) or not algorithms:
        raise ConfigError("Jwt.algorithms", algorithms, 'a list of those that are accepted, for example ["RS256"]')
    try:
        import jwt  # noqa: PLC0415 - an extra
    except ImportError as error:
        allowed = 'installed, to verify tokens (Jwt): pip install "stateful-route[web]"'
        raise ConfigError("PyJWT", None, allowed) from error
    key = source.key.key if isinstance(source.key, jwt.PyJWK) else source.key
    for algorithm in algorithms:
        _check_key(jwt.PyJWS(), algorithm, key)
    names = list(algorithms)
    options = {
        "verify_aud": source.audience is not None,
        "verify_sub": False,  # a whole number is an id as well
        "verify_jti": False,
    }
    # Older releases, 2.8 among them, let through what odd claims of a signed token make Python raise.
    refused = (jwt.PyJWTError, ValueError, TypeError, ArithmeticError, RecursionError)

    def claims(token: str) -> Mapping[str, Any] | None:
        try:
            return jwt.decode(
                token,
                key,
                algorithms=names,
                options=options,  # type: ignore[arg-type]  # a TypedDict, newer than the oldest release that is allowed
                audience=source.audience,
                issuer=source.issuer,
                leeway=source.leeway,
            )
        except refused:
            return None

    return claims


def _check_key(jws: Any, algorithm: object, key: Any) -> None:
    """Refuse an algorithm that is not there, and a key that does not fit it."""
    known = [name for name in jws.get_algorithms() if name != "none"]
    if not isinstance(algorithm, str) or algorithm not in known:
        missing = "" if "RS256" in known else "; others need the package `cryptography`"
        raise ConfigError("Jwt.algorithms", algorithm, f"any of {', '.join(known)}{missing}")
    checker = jws.get_algorithm_by_name(algorithm)
    try:
        prepared = checker.prepare_key(key)
    except Exception as error:  # of PyJWT or of cryptography, and of any kind: it is told, with its cause
        raise ConfigError("Jwt.key", _HIDDEN, f"a key for {algorithm}: {type(error).__name__}") from error
    too_short = _too_short(checker, algorithm, prepared)
    if too_short:
        raise ConfigError("Jwt.key", _HIDDEN, f"a key long enough for {algorithm}: {too_short}")


def _too_short(checker: Any, algorithm: str, key: Any) -> str | None:
    """Return what RFC 7518 wants of a key, in words, if it is too short; newer releases of PyJWT warn of it."""
    least = int(algorithm[2:]) // 8 if algorithm.startswith("HS") else 0
    if isinstance(key, bytes) and len(key) < least:
        return f"{least} bytes at least"
    check = getattr(checker, "check_key_length", None)
    message: str | None = check(key) if check else None
    return message
