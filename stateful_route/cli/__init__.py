"""The command ``stateful-route``: one module for each of its commands."""

from stateful_route.cli.main import main

__all__ = ["main"]
