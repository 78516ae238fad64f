"""Every method of both drivers refuses what is no argument before anything is sent."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import pytest

from stateful_route import (
    InvalidArgumentError,
    StatefulRouteForClientDriver,
    StatefulRouteForServerDriver,
)

if TYPE_CHECKING:
    from stateful_route.testing import MemoryStore
    from tests.unit.conftest import MakeClient, MakeServer

GOOD: dict[str, Any] = {
    "namespace": "prod",
    "uid": "alice",
    "uids": ["alice", "bob"],
    "service_name": "room",
    "pod_index": 0,
    "persist_seconds": 1.0,
    "load_state": 1,
    "routing_state": "READY",
}
_NO_ID: list[Any] = [None, 0, 5, b"alice", ["alice"], {}, "   ", "\t\n", "x" * 513, "\u00e9" * 257, "\ud800"]
_NO_INT: list[Any] = [None, True, -1, 1.0, float("nan"), "1", [1], 2**53]
BAD: dict[str, list[Any]] = {
    "namespace": _NO_ID,
    "uid": ["", *_NO_ID],
    "uids": [None, 5, "alice", b"alice", [None], ["alice", ""], [["alice"]], ["\udfff"]],
    "service_name": ["", *_NO_ID],
    "pod_index": [*_NO_INT, 2**31],
    "persist_seconds": [None, True, -0.001, float("nan"), float("inf"), "1", [1.0], 1e308, 10**400],
    "load_state": _NO_INT,
    "routing_state": [None, True, 0, "ready", "GONE", ["READY"]],
}


def cases(protocol: type) -> list[Any]:
    """Return each method of a contract, each of its arguments, and each bad value for it."""
    found = []
    for name, method in inspect.getmembers(protocol, inspect.isfunction):
        for argument in list(inspect.signature(method).parameters)[1:]:
            for i, value in enumerate(BAD.get(argument, [])):
                found.append(pytest.param(name, argument, value, id=f"{name}-{argument}-{i}"))
    return found


def arguments_of(protocol: type, name: str) -> dict[str, Any]:
    return {argument: GOOD[argument] for argument in list(inspect.signature(getattr(protocol, name)).parameters)[1:]}


@pytest.mark.parametrize(("method", "argument", "value"), cases(StatefulRouteForClientDriver))
async def test_client(make_client: MakeClient, store: MemoryStore, method: str, argument: str, value: Any) -> None:
    """A client driver refuses a bad argument, by its name, before anything is sent."""
    async with make_client() as client:
        call = getattr(client, method)
        with pytest.raises(InvalidArgumentError) as caught:
            await call(**(arguments_of(StatefulRouteForClientDriver, method) | {argument: value}))

    assert argument == caught.value.argument
    assert {} == store.operations


@pytest.mark.parametrize("method", ["batch_compute_linked_pod", "batch_get_linked_pod"])
@pytest.mark.parametrize("uids", BAD["uids"])
async def test_batch(make_client: MakeClient, store: MemoryStore, method: str, uids: Any) -> None:
    """A batch of what are no uids is refused before anything is sent."""
    async with make_client() as client:
        with pytest.raises(InvalidArgumentError):
            await getattr(client, method)("prod", uids, "room")

    assert {} == store.operations


@pytest.mark.parametrize("value", _NO_ID)
@pytest.mark.parametrize("argument", ["namespace", "uid", "service_name"])
@pytest.mark.parametrize("method", ["compute_linked_pod", "get_linked_pod", "get_linked_in_cache", "route"])
async def test_cached(make_client: MakeClient, store: MemoryStore, method: str, argument: str, value: Any) -> None:
    """What is no id is refused even if something is cached that it might be taken for."""
    async with make_client() as client:
        await client.set_cache("", "alice", "room", 0)
        with pytest.raises(InvalidArgumentError):
            await getattr(client, method)(
                **({"namespace": "", "uid": "alice", "service_name": "room"} | {argument: value})
            )

    assert {} == store.operations


@pytest.mark.parametrize(("method", "argument", "value"), cases(StatefulRouteForServerDriver))
async def test_server(make_server: MakeServer, store: MemoryStore, method: str, argument: str, value: Any) -> None:
    """A server driver refuses a bad argument, by its name, before anything is sent."""
    async with make_server() as server:
        store.operations.clear()
        call = getattr(server, method)
        with pytest.raises(InvalidArgumentError) as caught:
            await call(**(arguments_of(StatefulRouteForServerDriver, method) | {argument: value}))

        assert argument == caught.value.argument
        assert {} == store.operations


@pytest.mark.parametrize("uid", BAD["uid"])
async def test_claim(make_server: MakeServer, store: MemoryStore, uid: Any) -> None:
    """A claim of what is no uid is refused before anything is sent."""
    async with make_server() as server:
        store.operations.clear()
        with pytest.raises(InvalidArgumentError):
            await server.claim(uid)

        assert {} == store.operations


@pytest.mark.parametrize("grace", BAD["persist_seconds"], ids=lambda value: repr(value)[:10])
async def test_release(make_server: MakeServer, store: MemoryStore, grace: Any) -> None:
    """A release with what is no time is refused before anything is sent, and the uid stays owned."""
    async with make_server() as server:
        handle = await server.claim("alice")
        store.operations.clear()
        with pytest.raises(InvalidArgumentError):
            await handle.release(grace)

        assert handle.is_owned()
        assert {} == store.operations


def test_every_argument_is_covered() -> None:
    """Each argument of each method of the contract has bad values here."""
    protocols = (StatefulRouteForClientDriver, StatefulRouteForServerDriver)
    methods = [method for protocol in protocols for _, method in inspect.getmembers(protocol, inspect.isfunction)]
    names = {name for method in methods for name in list(inspect.signature(method).parameters)[1:]}

    assert set(BAD) == {name for name in names if name not in {"args", "kwargs"}}
