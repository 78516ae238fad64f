"""The headers of the Lua scripts say what their bodies do."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import stateful_route
from stateful_route.errors import StoreProtocolError
from stateful_route.store import Store
from stateful_route.store.redis import codec, histories, inspection, pods, rights, scripts, service_names
from stateful_route.store.redis import store as redis_store
from stateful_route.store.transport.script import Script

FOLDER = Path(redis_store.__file__).parent / "lua"
CONFORMANCE = Path(stateful_route.__file__).parent / "testing" / "conformance"
NAMES = sorted(path.stem for path in FOLDER.glob("*.lua"))
SHARED = sorted(path.stem for path in (FOLDER / "shared").glob("*.lua"))
WRITES = re.compile(
    r"(?:redis\.p?call\(|\{ )'(?:SET|DEL|HSET|HDEL|ZADD|ZREM|RPUSH|LTRIM|PEXPIRE|PEXPIREAT|PERSIST|PUBLISH)'"
)
HISTORY = re.compile(r"^.* -- history\n", re.MULTILINE)
RECORDING = [name for name in NAMES if HISTORY.search((FOLDER / f"{name}.lua").read_text(encoding="utf-8"))]
BOTH = [(name, False) for name in NAMES] + [(name, True) for name in RECORDING]

MORE = "..."


def named(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys or arguments that the header names."""
    return tuple(name for name in names if name != MORE)


def header(name: str) -> dict[str, str]:
    """Return the fields of a header, in their order."""
    lines = (FOLDER / f"{name}.lua").read_text(encoding="utf-8").splitlines()
    top = lines[: next(i for i, line in enumerate(lines) if not line.startswith("--"))]
    return dict(re.findall(r"^-- ([a-z]+): ?(.*)$", "\n".join(top), re.MULTILINE))


def text_of(path: Path, *, history: bool) -> str:
    """Return a file as the script has it that keeps histories, or as the other has it."""
    text = path.read_text(encoding="utf-8")
    return text if history else HISTORY.sub("", text)


def code(path: Path, *, history: bool = False) -> str:
    """Return a script without its comments."""
    return re.sub(r"--.*", "", text_of(path, history=history))


def includes(name: str, *, history: bool = False) -> list[str]:
    """Return the names of the shared files that a script includes."""
    text = text_of(FOLDER / f"{name}.lua", history=history)
    return re.findall(r"^-- include: (\w+)(?: -- history)?$", text, re.MULTILINE)


def body(name: str, *, history: bool = False) -> str:
    """Return the code of a script with the functions of its included files that it reaches."""
    own = code(FOLDER / f"{name}.lua", history=history)
    shared = [FOLDER / "shared" / f"{each}.lua" for each in includes(name, history=history)]
    included = "".join(code(path, history=history) for path in shared)
    functions = dict(re.findall(r"^local function (\w+)(.*?)^end$", included, re.MULTILINE | re.DOTALL))
    rest = re.sub(r"^local function \w+.*?^end$", "", included, flags=re.MULTILINE | re.DOTALL)
    reached: set[str] = set()
    texts = [own, rest]
    while texts:
        text = texts.pop()
        called = {name for name in functions if re.search(rf"\b{name}\(", text)} - reached
        reached |= called
        texts += [functions[name] for name in called]
    return "\n".join([own, rest, *(functions[name] for name in reached)])


def indexes(what: str, text: str) -> set[int]:
    return {int(number) for number in re.findall(rf"\b{what}\[(\d+)\]", text)}


@pytest.mark.parametrize("name", NAMES)
def test_header_is_complete(name: str) -> None:
    """A header has prose and every field, in one order, and is safe to run again or says what a second run does."""
    fields = header(name)

    assert ["keys", "args", "returns", "writes", "rerun", "cost"] == [field for field in fields if field != "include"]
    assert (FOLDER / f"{name}.lua").read_text(encoding="utf-8").startswith("-- ")
    assert fields["writes"] in {"yes", "no"}
    assert fields["rerun"].startswith("safe")
    assert fields["cost"]
    assert set(includes(name)) <= set(SHARED)


@pytest.mark.parametrize(("name", "history"), BOTH)
def test_keys_and_arguments(name: str, *, history: bool) -> None:
    """A script uses each key and argument of its header, and no other; with a history, one key more."""
    script, text = scripts.load(name), body(name, history=history)

    assert set(range(1, len(named(script.keys)) + 1 + history)) == indexes("KEYS", text)
    assert set(range(1, len(named(script.args)) + 1)) == indexes("ARGV", text)
    assert not re.search(r"#(?:KEYS|ARGV)|(?:KEYS|ARGV)\[[^\d]", text)


@pytest.mark.parametrize("name", NAMES)
def test_returns(name: str) -> None:
    """Every reply of a script has the length that its header says."""
    script, own = scripts.load(name), code(FOLDER / f"{name}.lua")
    literals = [
        len(parts.split(","))
        for parts in re.findall(r"^\s*.*?return \{(.*)\}", re.sub(r"\([^()]*\)", "", own), re.MULTILINE)
    ]
    in_a_line = header(name)["returns"].endswith(", in a line")

    assert script.returns is None or in_a_line or {len(script.returns)} == set(literals)
    assert (script.returns is None or in_a_line) <= ([] == literals)


@pytest.mark.parametrize("name", NAMES)
def test_writes(name: str) -> None:
    """A script that says that it writes nothing calls no command that writes."""
    assert scripts.load(name).writes == bool(WRITES.search(body(name)))


def test_every_script_is_loaded() -> None:
    """The store loads every script of the folder, and every shared file is included by one."""
    loaded = {
        script.sha
        for module in (redis_store, pods, service_names, inspection, rights)
        for script in vars(module).values()
        if isinstance(script, Script)
    }

    assert [] == [f"{name}.lua" for name in NAMES if scripts.load(name).sha not in loaded]
    assert set(SHARED) == {shared for name, history in BOTH for shared in includes(name, history=history)}


def test_nothing_of_histories() -> None:
    """What a store sends that keeps no histories has not a byte of them; those that change a link have another form."""
    without = [scripts.load(name) for name in NAMES if name not in {"history", "rights"}]  # of who looks

    assert ["assign", "claim", "move", "place", "place_many", "release"] == RECORDING
    assert [] == [script.name for script in without if "history" in script.source or "record(" in script.source]
    for name in RECORDING:
        plain, recording = scripts.load(name), scripts.load(name, history=True)

        assert "local function record(" in recording.source
        assert "-- include" not in recording.source
        assert (plain.name, plain.returns, plain.writes) == (recording.name, recording.returns, recording.writes)
    assert ("link", "ended", "history") == scripts.load("claim", history=True).keys
    assert ("kept", "kept_ms") == scripts.load("claim", history=True).args[-2:]
    assert set(RECORDING) == {name for name in RECORDING if scripts.load(name).sha in histories.RECORDED}


def test_every_operation_has_a_conformance_test() -> None:
    """The suite that every store passes calls each method of the protocol."""
    called = {
        node.attr
        for path in CONFORMANCE.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }

    assert [] == [name for name in vars(Store) if not name.startswith("_") and name not in called]


@pytest.mark.parametrize("name", NAMES)
def test_wrong_count(name: str) -> None:
    """A call with too few or too many keys or arguments is a TypeError that names the script."""
    script = scripts.load(name)
    keys, args = named(script.keys), named(script.args)
    script.command(keys, args)
    needed_keys, needed = (tuple(name for name in names if not name.endswith("?")) for names in (keys, args))
    script.command(needed_keys, needed)
    wrong = [(needed_keys[1:], args), *([(keys, needed[1:])] if needed else [])]
    if script.keys[-1] != MORE:
        wrong += [((*keys, "x"), args), (keys, (*args, "x"))]
    for keys, args in wrong:
        with pytest.raises(TypeError, match=script.name):
            script.command(keys, args)


def test_commands() -> None:
    """The two commands of a call differ in how the script is named only."""
    script = scripts.load("claim")
    call = script.command(("k", "e"), (1, 2, "", "c", 0))

    assert ("EVALSHA", script.sha, 2, "k", "e", 1, 2, "", "c", 0) == call.evalsha
    assert ("EVAL", script.source, *call.evalsha[2:]) == call.eval
    assert 40 == len(script.sha)
    assert script is scripts.load("claim")


@pytest.mark.parametrize(
    "reply",
    [
        None,
        [],
        b"OK",
        b"created 5 - t 0 1",
        b"what 5 - t 0 1 2",
        b"created 5 - what 0 1 2",
        b"created x - t 0 1 2",
        b"created 5 1:2 t 0 1 2",
        b"created 5 1:2:x t 0 1 2",
        [b"created", 5, b"-", b"t", 0, 1, 2],
    ],
)
def test_unreadable_reply(reply: object) -> None:
    """A reply of another shape is a protocol error that names the operation and says that it may have happened."""
    with pytest.raises(StoreProtocolError) as caught:
        codec.link_change(scripts.load("claim"), reply)

    assert ("claim", True) == (caught.value.operation, caught.value.maybe_applied)
