"""The Lua scripts, each with its header, which this module reads and holds the callers to.

A header is the comment block at the top of a script: prose, then ``keys``, ``args`` and ``returns`` (names in their
order, with ``?`` if it may be left out; ``...`` for any number more; "in a line" for one text), ``writes`` (yes or no),
``rerun`` (begins with "safe") and ``cost``. A line ``include`` stands for the file of that name in ``shared/``.

A line that ends in ``-- history`` is only in the scripts of a store that keeps histories of links: others send, and the
server runs, not a byte of it. ``shared/record.lua`` names the key and the arguments that those scripts have besides.
"""

from __future__ import annotations

import functools
import hashlib
import re
from importlib import resources

from stateful_route.store.transport.script import MORE, Script

_FIELD = re.compile(r"^-- (keys|args|returns|writes|rerun|cost):(.*)$", re.MULTILINE)
_INCLUDE = re.compile(r"^-- include: (\w+)(?: -- history)?\n", re.MULTILINE)
_HISTORY = re.compile(r"^.* -- history\n", re.MULTILINE)
_IN_A_LINE = ", in a line"
_FOR_MANY = "_many"
_FOLDER = resources.files(__package__) / "lua"
_RECORD = "shared/record"


@functools.cache
def load(name: str, *, history: bool = False) -> Script:
    """Read the script ``lua/<name>.lua`` from the package; with ``history``, the one that keeps histories."""
    text = _read(name)
    header = _header(text)
    keys, args = _names(header, "keys"), _names(header, "args")
    if history:
        more = _header(_read(_RECORD))
        keys, args = _with(keys, _names(more, "keys")), _with(args, _names(more, "args"))
    body = text if history else _HISTORY.sub("", text)
    source = _INCLUDE.sub(lambda found: _read(f"shared/{found[1]}"), body)
    source = source if history else _HISTORY.sub("", source)
    returns = tuple(header["returns"].removesuffix(_IN_A_LINE).split())
    return Script(
        name=name.removesuffix(_FOR_MANY),
        keys=keys,
        args=args,
        returns=None if returns == (MORE,) else returns,
        writes=header["writes"] == "yes",
        source=source,
        sha=hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest(),
    )


def _read(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def _header(text: str) -> dict[str, str]:
    return {field: value.strip() for field, value in _FIELD.findall(text)}


def _names(header: dict[str, str], field: str) -> tuple[str, ...]:
    return tuple(header[field].split())


def _with(names: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """Return names with more behind them, which "..." has room for."""
    return names if names[-1:] == (MORE,) else names + more
