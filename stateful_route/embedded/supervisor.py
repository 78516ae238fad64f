"""The supervisor of a server of our own: a small shell that is its parent process, and ends it with whoever started it.

It reads from a socket that only the starting process holds, so it learns of the end of that process however it ended,
``kill -9`` included; then it kills the server and removes its folder.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

# For how many seconds a supervisor may take to go.
_END = 5.0

# Says the process id of the server, then its exit status; hears "start", or else the end. While the server runs the
# watcher is the one who listens, so that the shell itself can wait for the server and reap it. The watcher goes
# before the status is said: it must not kill a process id that may be somebody else's by then.
_SCRIPT: Final = """
folder=$1; shift
trap '' PIPE
exec 3<&0
word=start
while [ "$word" = start ]; do
    "$@" </dev/null >>server.log 2>&1 3<&- &
    server=$!
    { read -r word <&3; kill -KILL $server; } &
    watcher=$!
    echo $server
    wait $server
    status=$?
    kill $watcher; wait $watcher
    echo $status
    word=; read -r word <&3
done
cd / && rm -rf -- "$folder"
"""


class Supervisor:
    """The supervisor process of one server, and the line of words to it."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        """Start the server: ``command`` runs in ``folder``, which goes with the supervisor."""
        self._line, theirs = socket.socketpair()
        self._heard = b""
        try:
            with theirs:
                self._process = subprocess.Popen(  # noqa: S603 - a script of ours; what it runs is its arguments
                    ["/bin/sh", "-c", _SCRIPT, "stateful_route", str(folder), *command],
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    cwd=folder,
                    start_new_session=True,  # Ctrl-C in the terminal does not end the server before its user
                )
        except BaseException:
            self._line.close()
            raise

    def say(self, word: str) -> None:
        """Say a word, if the supervisor is there to hear it."""
        with contextlib.suppress(ConnectionError):
            self._line.sendall(f"{word}\n".encode())

    def hear(self, timeout: float) -> str | None:
        """Return what it says within ``timeout`` seconds; ``None`` if it says nothing, ``""`` if it is gone."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self._heard:
            self._line.settimeout(max(deadline - time.monotonic(), 0.0))
            try:
                received = self._line.recv(64)
            except (TimeoutError, BlockingIOError):
                return None
            except ConnectionError:
                received = b""
            if not received:
                return ""
            self._heard += received
        said, _, self._heard = self._heard.partition(b"\n")
        return said.decode()

    def dismiss(self) -> None:
        """End the supervisor, which removes the folder."""
        self.say("end")
        self._line.close()
        try:
            self._process.wait(_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
