"""What users see: the names of the root, the contract and what implements it, the version."""

from __future__ import annotations

import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import stateful_route
from stateful_route import (
    BatchError,
    ClientDriver,
    InvalidArgumentError,
    NoCapacityError,
    NoRoutablePodError,
    NotOwnerError,
    NotReplicatedError,
    OrderRefusedError,
    ServerDriver,
    StatefulRouteError,
    StatefulRouteForClientDriver,
    StatefulRouteForServerDriver,
    StoreTimeoutError,
    _public,
    errors,
    forwarding,
    load,
    placement,
    store,
    travel,
)
from stateful_route.client.service_view import ServiceView
from stateful_route.store.protocol import Store
from stateful_route.store.redis.store import RedisStore
from stateful_route.testing import MemoryStore

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(stateful_route.__file__).parent.parent


def test_all_is_sorted_and_complete() -> None:
    """``__all__`` is sorted, each name of it is there, and no public name is missing from it."""
    public = {name for name, value in vars(_public).items() if not name.startswith("_") and not inspect.ismodule(value)}

    assert sorted(stateful_route.__all__) == stateful_route.__all__
    assert public | {"__version__"} == set(stateful_route.__all__)


@pytest.mark.parametrize("module", [forwarding, load, placement, store, travel], ids=lambda module: module.__name__)
def test_names_of_authors(module: ModuleType) -> None:
    """``__all__`` of a module for authors of stores, strategies and carriers is sorted, and no name is at the root."""
    assert sorted(module.__all__) == module.__all__
    assert all(hasattr(module, name) for name in module.__all__)
    assert set() == set(module.__all__) & set(stateful_route.__all__)


def test_lazy() -> None:
    """The root imports next to nothing; its names are there when one asks, and submodules as well."""
    program = """
import sys, stateful_route
few = len([name for name in sys.modules if name.startswith("stateful_route")])
assert "redis" not in sys.modules and few == 1, few
assert not hasattr(stateful_route, "NoSuchName") and not hasattr(stateful_route, "_no_such_name")
assert "redis" in sys.modules
assert stateful_route.errors.ConfigError is stateful_route.ConfigError
assert set(stateful_route.__all__) < set(dir(stateful_route)) and stateful_route.__version__
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_star_import() -> None:
    """A star import gives exactly these names."""
    names: dict[str, Any] = {}
    exec("from stateful_route import *", names)  # noqa: S102 - only there a star import is allowed

    assert set(stateful_route.__all__) == set(names) - {"__builtins__"}


def test_every_error_is_public() -> None:
    """Every error comes from the root, has the one base, and is drawn in the docstring of the tree."""
    tree = {
        name: value for name, value in vars(errors).items() if inspect.isclass(value) and issubclass(value, Exception)
    }

    assert set(tree) <= set(stateful_route.__all__)
    assert all(issubclass(error, StatefulRouteError) for error in tree.values())
    assert set(tree) == set(re.findall(r"\b\w+Error\b", errors.__doc__ or "")) - {"ValueError", "RuntimeError"}


def methods(protocol: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(protocol, inspect.isfunction) if not name.startswith("_")]


@pytest.mark.parametrize(
    ("protocol", "implementation"),
    [
        (StatefulRouteForClientDriver, ClientDriver),
        (StatefulRouteForServerDriver, ServerDriver),
        (Store, RedisStore),
        (Store, MemoryStore),
    ],
)
def test_signatures(protocol: type, implementation: type) -> None:
    """What implements a protocol has its methods, with the same arguments, and coroutines for coroutines."""
    answer = inspect.Signature.empty  # that of a decorated context manager is another one
    for name in methods(protocol):
        promised, given = getattr(protocol, name), getattr(implementation, name)

        signatures = [inspect.signature(method).replace(return_annotation=answer) for method in (promised, given)]
        assert signatures[0] == signatures[1], name
        assert inspect.iscoroutinefunction(promised) is inspect.iscoroutinefunction(given), name


def test_contract() -> None:
    """The names of the contract are fixed."""
    assert {
        "init",
        "start",
        "stop",
        "compute_linked_pod",
        "set_linked_pod_if_absent",
        "get_linked_pod",
        "get_linked_pod_not_cache",
        "get_linked_pod_in_cache_or_if_persist",
        "get_linked_in_cache",
        "set_cache",
        "cache_expired",
        "get_link_service",
        "batch_get_linked_pod",
    } == set(methods(StatefulRouteForClientDriver))
    assert {
        "init",
        "start",
        "stop",
        "set_load_state",
        "get_load_state",
        "set_routing_state",
        "get_routing_state",
        "set_linked_pod",
        "try_set_linked_pod",
        "remove_linked_pod",
        "remove_linked_pod_with_id",
    } == set(methods(StatefulRouteForServerDriver))


def test_everything_public_has_a_docstring() -> None:
    """Every public class and each of its public methods says what it does."""
    for name in stateful_route.__all__:
        value = getattr(stateful_route, name)
        if inspect.isclass(value):
            members = inspect.getmembers(value, inspect.isfunction)

            assert value.__doc__, name
            assert all(method.__doc__ for each, method in members if not each.startswith("_")), name
    assert ServiceView.__doc__


def test_version() -> None:
    """The top of the changelog is Unreleased, or the version."""
    tops = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    base = re.sub(r"\.?(?:dev|a|b|rc)\d+$", "", stateful_route.__version__)

    assert re.fullmatch(r"\d+\.\d+\.\d+", base)
    assert tops[0] in {"Unreleased", stateful_route.__version__}
    assert "dev" not in stateful_route.__version__ or "Unreleased" == tops[0]


def test_typed() -> None:
    """The marker for type checkers is in the package."""
    assert (Path(stateful_route.__file__).parent / "py.typed").is_file()


@pytest.mark.parametrize(
    "error",
    [
        InvalidArgumentError("uid", " ", "something else"),
        StoreTimeoutError("no answer", operation="place", maybe_applied=True),
        NotReplicatedError("no replica", operation="claim", replicas=0),
        NoRoutablePodError("prod", "room"),
        NoCapacityError("prod", "room"),
        NotOwnerError("alice", 3, 17, full=True),
        OrderRefusedError("not_answering", "prod", "room", 3, "it is deaf", asked="drain", seconds=1.5),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes(error: StatefulRouteError) -> None:
    """An error that is pickled comes back with its text and its attributes."""
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (type(error), str(error), vars(error)) == (type(copy), str(copy), vars(copy))


def test_batch_error_crosses_processes() -> None:
    """The error of a batch comes back with the links and the errors that it has."""
    error = BatchError({0: ["alice"]}, {"bob": StoreTimeoutError("no answer", operation="place", maybe_applied=True)})
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own

    assert (str(error), error.links, str(error.errors)) == (str(copy), copy.links, str(copy.errors))
