"""Ids that we make ourselves, for clients that bring none."""

from __future__ import annotations

import abc
import base64
import hmac
import re
import secrets
from typing import TYPE_CHECKING, Any

import attrs

from stateful_route._validation import check_bool, check_int, checked
from stateful_route.errors import ConfigError, InvalidArgumentError
from stateful_route.web.uids.cookies import VALUE
from stateful_route.web.uids.normal import MAX_UID_BYTES
from stateful_route.web.uids.sources import UidSource, check_token, derived

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stateful_route.web.uids.request import RequestHead

_LEAST_SECRET = 16
_SIGNATURE = 43  # characters of 32 bytes as base64url, without padding
_HIDDEN = "(hidden)"
# So that no signature of ours for something else, with the same secret, is one of a cookie; and the other way round.
_PURPOSE = b"stateful_route.web: signed cookie, 1\0"
_PATH = re.compile(r"/[ -:<-~]*")
_DOMAIN = re.compile(r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*")
_SAME_SITE = {"lax": "Lax", "strict": "Strict", "none": "None"}


@attrs.frozen
class Issued:
    """An id that we made, found in a request.

    Attributes:
        uid: the id.
        stale: whether it is to be issued again: it is signed with an older secret.

    """

    uid: str
    stale: bool = False


@attrs.frozen(kw_only=True)
class IssuedSource(UidSource):
    """Makes ids, gives them to clients, and finds those that it gave."""

    @abc.abstractmethod
    def new_uid(self) -> str:
        """Return an id that nobody has: 128 random bits."""

    @abc.abstractmethod
    def issue(self, uid: str) -> bytes:
        """Return the value of a ``Set-Cookie`` header that gives the id to the client."""

    @abc.abstractmethod
    def read(self, request: RequestHead) -> Issued | None:
        """Return the id that this request brings, if we gave it; ``None`` of any other."""

    def find(self, request: RequestHead) -> str | None:
        """Return the id that this request brings, if we gave it."""
        issued = self.read(request)
        return issued.uid if issued else None


def _as_keys(value: Any) -> Any:
    """Return secrets as bytes; leave what is none to the check that follows."""
    if not isinstance(value, list | tuple):
        return None
    return tuple(one.encode(errors="surrogatepass") if isinstance(one, str) else one for one in value)


def _check_keys(_source: object, _attribute: object, keys: Any) -> None:
    fit = keys and all(isinstance(key, bytes) and len(key) >= _LEAST_SECRET for key in keys)
    if not fit:
        raise ConfigError(
            "SignedCookie.secrets",
            _HIDDEN,
            f"a list of secrets, each a str or bytes of at least {_LEAST_SECRET} bytes; the first one signs",
        )


def _check_path(argument: str, value: object) -> None:
    if not isinstance(value, str) or not _PATH.fullmatch(value):
        raise InvalidArgumentError(argument, value, 'a path from "/" on, in ASCII, without ";"')


def _check_domain(argument: str, value: object) -> None:
    if not isinstance(value, str) or not _DOMAIN.fullmatch(value):
        raise InvalidArgumentError(argument, value, "the name of a domain, without port, or None: this host only")


def _check_same_site(argument: str, value: object) -> None:
    if not isinstance(value, str) or value not in _SAME_SITE:
        raise InvalidArgumentError(argument, value, '"lax", "strict" or "none"')


def _attributes_of(cookie: SignedCookie) -> str:
    return "".join(f"; {part}" for part in _parts(cookie))


def _parts(cookie: SignedCookie) -> Iterator[str]:
    yield f"Path={cookie.path}"
    if cookie.domain is not None:
        yield f"Domain={cookie.domain}"
    if cookie.max_age is not None:
        yield f"Max-Age={cookie.max_age}"
    yield "HttpOnly"
    if cookie.secure:
        yield "Secure"
    yield f"SameSite={_SAME_SITE[cookie.same_site]}"
    if cookie.partitioned:
        yield "Partitioned"


def _purpose_of(cookie: SignedCookie) -> bytes:
    return _PURPOSE + cookie.name.encode() + b"\0"


@attrs.frozen
class SignedCookie(IssuedSource):
    """A cookie of our own, for clients that bring no id; it holds the uid and its signature, and no pod.

    So it survives that the uid moves, and nobody can make up a uid. The value is the uid, a dot, and HMAC-SHA256 of
    the uid and the name of the cookie as base64url. It is no secret, and has no time in it: it is valid as long as a
    secret is. To rotate, put the new secret in front, and drop the old one when ``max_age`` has passed.

    Within a page of another site (an embedded chat) browsers send it only with ``same_site="none"`` and, more and
    more, ``partitioned=True``. A name with the prefix ``__Host-`` keeps neighbouring domains from setting it.

    Attributes:
        name: of the cookie.
        secrets: each a str or bytes of at least 16 bytes; the first one signs, all of them verify.
        max_age: seconds for which a browser keeps it, 1 to 10 years; ``None``: until it is closed.
        path: below which a browser sends it.
        domain: to whose hosts a browser sends it; ``None``: to the one that set it only.
        secure: whether a browser sends it by HTTPS only; ``False`` is for development.
        same_site: ``"lax"``, ``"strict"`` or ``"none"``.
        partitioned: whether it is another one within the pages of each other site.

    Raises:
        ConfigError: if a secret is too short, or what a browser would refuse: ``same_site="none"`` or ``partitioned``
            without ``secure``, and a prefix of the name (``__Host-``, ``__Secure-``) that does not fit the rest.

    """

    name: str = attrs.field(validator=checked(check_token))
    secrets: tuple[bytes, ...] = attrs.field(kw_only=True, repr=False, converter=_as_keys, validator=_check_keys)
    max_age: int | None = attrs.field(
        default=None, kw_only=True, validator=checked(check_int, 1, 315_360_000, optional=True)
    )
    path: str = attrs.field(default="/", kw_only=True, validator=checked(_check_path))
    domain: str | None = attrs.field(default=None, kw_only=True, validator=checked(_check_domain, optional=True))
    secure: bool = attrs.field(default=True, kw_only=True, validator=checked(check_bool))
    same_site: str = attrs.field(default="lax", kw_only=True, validator=checked(_check_same_site))
    partitioned: bool = attrs.field(default=False, kw_only=True, validator=checked(check_bool))
    _attributes: str = derived(_attributes_of)
    _purpose: bytes = derived(_purpose_of)

    def __attrs_post_init__(self) -> None:
        """Look at what a browser would silently refuse."""
        super().__attrs_post_init__()
        if not self.secure and (self.partitioned or self.same_site == "none"):
            raise ConfigError("SignedCookie.secure", self.secure, 'True with same_site="none" or partitioned=True')
        prefix = self.name.lower()
        if prefix.startswith(("__host-", "__secure-")) and not self.secure:
            raise ConfigError("SignedCookie.secure", self.secure, f"True with the name {self.name!r}")
        if prefix.startswith("__host-") and (self.path != "/" or self.domain is not None):
            raise ConfigError(
                "SignedCookie.path", (self.path, self.domain), f'"/", without a domain, with the name {self.name!r}'
            )

    def new_uid(self) -> str:
        """Return an id that nobody has: 128 random bits, as 22 letters, digits, ``-`` and ``_``."""
        return secrets.token_urlsafe(16)

    def issue(self, uid: str) -> bytes:
        """Return the value of the ``Set-Cookie`` header that gives the id to the client.

        Raises:
            InvalidArgumentError: if the uid cannot be in a cookie: 1 to 256 visible ASCII characters, without
                white space, comma, semicolon, double quote and backslash.

        """
        if not isinstance(uid, str) or not VALUE.fullmatch(uid) or len(uid) > MAX_UID_BYTES:
            raise InvalidArgumentError(
                "uid", uid, f"1 to {MAX_UID_BYTES} visible ASCII characters, without any of comma, semicolon, quote, \\"
            )
        return f"{self.name}={uid}.{self._signature(self.secrets[0], uid.encode()).decode()}{self._attributes}".encode()

    def read(self, request: RequestHead) -> Issued | None:
        """Return the id of the first cookie of that name with a valid signature, and whether it is to be reissued."""
        for value in request.cookie_values(self.name):
            uid, _, signature = value.rpartition(".")
            if not uid or len(signature) != _SIGNATURE or not value.isascii():
                continue
            given = signature.encode()
            for age, secret in enumerate(self.secrets):
                if hmac.compare_digest(self._signature(secret, uid.encode()), given):
                    return Issued(uid, stale=age > 0)
        return None

    def _signature(self, secret: bytes, uid: bytes) -> bytes:
        digest = hmac.digest(secret, self._purpose + uid, "sha256")
        return base64.urlsafe_b64encode(digest).rstrip(b"=")
