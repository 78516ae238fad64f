"""Sends single commands to a server of our own, and returns replies as text: for setting it up, and in tests.

It blocks, and needs no redis-py: only the store may import that.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO


def ask(path: str, words: Sequence[str], timeout: float) -> str:
    """Send a command over a connection of its own to the unix socket at ``path``; see ``LocalServer.ask``.

    Raises:
        OSError: if the server does not answer within ``timeout`` seconds.

    """
    command = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall("".join(command).encode())
        with connection.makefile("rb") as replies:
            return _read_text(replies)


def _read_text(replies: BinaryIO) -> str:
    """Read one reply."""
    head = replies.readline()
    if not head.endswith(b"\n"):
        raise ConnectionResetError("the server closed the connection")
    if head.startswith(b"*"):
        return "\n".join(_read_text(replies) for _ in range(int(head[1:])))
    if not head.startswith(b"$"):
        return head.rstrip().decode()
    size = int(head[1:])
    return replies.read(size + 2)[:size].decode() if size >= 0 else ""
