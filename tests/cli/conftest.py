"""What the tests of the command share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import Commands

if TYPE_CHECKING:
    from stateful_route.embedded.server import LocalServer


@pytest.fixture
def cli(shared_server: LocalServer, namespace: str) -> Commands:
    """Return what runs commands on the server that tests share, in a namespace of this test."""
    return Commands(shared_server.url, namespace)
