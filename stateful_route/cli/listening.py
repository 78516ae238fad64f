"""The port of a command that listens: a taken one is an error of usage, in every command the same."""

from __future__ import annotations

import socket

from stateful_route.cli.ending import USAGE, CommandError


def bound(host: str, number: int) -> socket.socket:
    """Return a socket on a port, before anything is started: who listens there is seen at once.

    Two that are started at the same time may both have it, until one of them listens.

    Raises:
        CommandError: if that cannot be.

    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise not_listening(host, number, error) from None
    return listener


def check_free(host: str, number: int) -> None:
    """Find out before anything is started whether a web server that opens the port itself can have it.

    Raises:
        CommandError: if it cannot.

    """
    bound(host, number).close()


def url_of(host: str, number: int) -> str:
    """Return the URL of a web server there, for people."""
    return f"http://{f'[{host}]' if ':' in host else host}:{number}"


def not_listening(host: str, number: int, error: OSError) -> CommandError:
    """Return the error of a command that cannot listen there."""
    return CommandError(f"cannot listen on {host} port {number}: {error.strerror or error}", USAGE)
