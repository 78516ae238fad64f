"""A Lua script as a server knows it, and a call of it in the protocol of Redis."""

from __future__ import annotations

import functools
import math

import attrs

from stateful_route.store.transport import resp

MORE = "..."
"""Any number of further keys or arguments."""

_BEFORE_KEYS = 3  # EVALSHA, the SHA-1, and how many keys there are


@attrs.frozen
class Script:
    """A Lua script.

    Attributes:
        name: of the operation, which errors give too; that of a script for many links is that for one.
        keys: the names of its keys; the last one is ``...`` if there can be more.
        args: the names of its arguments; likewise, and one that ends in ``?`` may be left out.
        returns: the names of the parts of its reply; ``None`` for a reply of any length.
        writes: whether it may change anything.
        source: the text that is sent.
        sha: the SHA-1 of the text, by which the server knows it.

    """

    name: str
    keys: tuple[str, ...]
    args: tuple[str, ...]
    returns: tuple[str, ...] | None
    writes: bool
    source: str
    sha: str
    packed: dict[int, bytes] = attrs.field(init=False, repr=False)
    """Its ``EVALSHA`` in the protocol of Redis, with room for the length, the keys and the encoded arguments; by the
    number of keys."""

    takes: tuple[int, float, int, float] = attrs.field(init=False, repr=False)
    """The fewest and the most keys, and the fewest and the most arguments."""

    @takes.default
    def _count(self) -> tuple[int, float, int, float]:
        return *_counts(self.keys), *_counts(self.args)

    @packed.default
    def _pack(self) -> dict[int, bytes]:
        fewest, _ = _counts(self.keys)
        return {
            count: b"*%d\r\n" + _packed_args(("EVALSHA", self.sha, count)) + b"$%d\r\n%b\r\n" * count + b"%b"
            for count in range(fewest, len(self.keys) + 1)
        }

    def command(self, keys: tuple[str, ...], args: tuple[str | int, ...]) -> ScriptCall:
        """Return the call of the script with these keys and arguments."""
        fewest_keys, most_keys, fewest, most = self.takes
        if not (fewest_keys <= len(keys) <= most_keys and fewest <= len(args) <= most):
            raise TypeError(f"{self.name} takes keys {self.keys} and arguments {self.args}, not {keys} and {args}")
        return ScriptCall(self, keys, args)


@attrs.define(eq=False)  # not frozen: one is made for each call, in half the time
class ScriptCall:
    """One call of a script."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | int, ...]

    @property
    def name(self) -> str:
        """The name of the script."""
        return self.script.name

    @property
    def writes(self) -> bool:
        """Whether the script may change anything."""
        return self.script.writes

    @property
    def evalsha(self) -> tuple[str | int, ...]:
        """The command that runs the script if the server has it."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    @property
    def packed(self) -> bytes:
        """The same command in the protocol of Redis; of a fixed length, three times as fast as from its parts."""
        if self.script.keys[-1] == MORE:
            return resp.pack(self.evalsha)  # type: ignore[no-any-return]  # hiredis has no types
        count = len(self.keys)
        packed, length = self.script.packed[count], _BEFORE_KEYS + count + len(self.args)
        if count == 1:
            key = self.keys[0].encode()
            return packed % (length, len(key), key, _packed_args(self.args))
        parts: list[int | bytes] = []
        for name in self.keys:
            text = name.encode()
            parts += len(text), text
        return packed % (length, *parts, _packed_args(self.args))

    @property
    def eval(self) -> tuple[str | int, ...]:
        """The command that runs the script and leaves it with the server."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.args)


def _counts(names: tuple[str, ...]) -> tuple[int, float]:
    """Return how many keys or arguments with these names there are at least and at most."""
    fewest = sum(name != MORE and not name.endswith("?") for name in names)
    return fewest, math.inf if names[-1:] == (MORE,) else len(names)


@functools.lru_cache(maxsize=1024)
def _packed_args(args: tuple[str | int, ...]) -> bytes:
    """Encode arguments, which are the same for many uids: those of a pod."""
    packed = []
    for arg in args:
        text = str(arg).encode()
        packed.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(packed)
