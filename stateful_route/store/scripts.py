"""The Lua scripts, each with its header, which this module reads and holds the callers to.

A header is the comment block at the top of a script: prose, then ``keys``, ``args`` and ``returns`` (names in their
order; ``...`` for a reply of any length), ``writes`` (yes or no), ``rerun`` (begins with "safe"), ``cost``, and
maybe ``include``, the name of a file in ``shared/`` that is put before the script.
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib import resources

import attrs

_FIELD = re.compile(r"^-- (keys|args|returns|writes|rerun|cost|include):(.*)$", re.MULTILINE)
_FOLDER = resources.files(__package__) / "lua"


@attrs.frozen
class Script:
    """A Lua script.

    Attributes:
        name: of the file, and of the operation.
        keys: the names of its keys.
        args: the names of its arguments.
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

    def command(self, keys: tuple[str, ...], args: tuple[str | int, ...]) -> ScriptCall:
        """Return the call of the script with these keys and arguments."""
        if len(keys) != len(self.keys) or len(args) != len(self.args):
            raise TypeError(f"{self.name} takes keys {self.keys} and arguments {self.args}, not {keys} and {args}")
        return ScriptCall(self, keys, args)


@attrs.frozen
class ScriptCall:
    """One call of a script."""

    script: Script
    keys: tuple[str, ...]
    args: tuple[str | int, ...]

    @property
    def evalsha(self) -> tuple[str | int, ...]:
        """The command that runs the script if the server has it."""
        return ("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)

    @property
    def eval(self) -> tuple[str | int, ...]:
        """The command that runs the script and leaves it with the server."""
        return ("EVAL", self.script.source, len(self.keys), *self.keys, *self.args)


@functools.cache
def load(name: str) -> Script:
    """Read the script ``lua/<name>.lua`` from the package."""
    body = (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")
    header = {field: text.strip() for field, text in _FIELD.findall(body)}
    shared = header.get("include")
    source = body if shared is None else (_FOLDER / "shared" / f"{shared}.lua").read_text(encoding="utf-8") + body
    returns = tuple(header["returns"].split())
    return Script(
        name=name,
        keys=tuple(header["keys"].split()),
        args=tuple(header["args"].split()),
        returns=None if returns == ("...",) else returns,
        writes=header["writes"] == "yes",
        source=source,
        sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(),
    )
