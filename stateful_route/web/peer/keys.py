"""What peers prove to each other: that they are of one service, and know its secret."""

from __future__ import annotations

import hashlib
import hmac
from typing import TYPE_CHECKING, TypeAlias

import attrs

from stateful_route.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

Secret: TypeAlias = "str | bytes | None"  # noqa: S105 - a type

MIN_SECRET = 16
"""The fewest bytes of a secret."""

_OPEN = "open"  # the name of the key of a service that has no secret


@attrs.frozen
class PeerKey:
    """One secret of a service; ``name`` tells which one it is, and nothing of it."""

    name: str
    _key: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, secret: Secret) -> PeerKey:
        """Return the key of a secret; without one, that of a service that has none."""
        if secret is None or secret in {"", b""}:
            return cls(_OPEN, b"")
        key = secret.encode() if isinstance(secret, str) else secret
        if not isinstance(key, bytes) or len(key) < MIN_SECRET:
            raise ConfigError("secret", "...", f"text or bytes, {MIN_SECRET} bytes or more: openssl rand -hex 32")
        return cls(hmac.new(key, b"stateful_route peer key name", hashlib.sha256).hexdigest()[:8], key)

    def proof(self, *said: str) -> str:
        """Return the proof that who knows the secret has said this."""
        text = "\0".join(("stateful_route peer 1", *said))
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()


class PeerKeys:
    """The secrets of a service: the first is used, all are accepted, so that one can follow the other."""

    def __init__(self, secret: Secret | Sequence[Secret]) -> None:
        """Take one secret, several, or none.

        Raises:
            ConfigError: if one is too short.

        """
        secrets = [secret] if secret is None or isinstance(secret, (str, bytes)) else list(secret)
        keys = [PeerKey.of(each) for each in secrets] or [PeerKey.of(None)]
        self._keys = {key.name: key for key in keys}

    @property
    def names(self) -> list[str]:
        """The names of the keys, the first one first."""
        return list(self._keys)

    def named(self, name: object) -> PeerKey | None:
        """Return the key of that name, if it is known."""
        return self._keys.get(name) if isinstance(name, str) else None

    def shared(self, names: Sequence[str]) -> PeerKey | None:
        """Return the first key that the other side knows too."""
        return next((key for name, key in self._keys.items() if name in names), None)
