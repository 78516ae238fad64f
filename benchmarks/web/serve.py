"""An application under uvicorn, on a socket that it was given: ``python -m benchmarks.web.serve MODULE:NAME FD HTTP``.

``HTTP`` is the protocol, as of ``uvicorn --http``.

With ``--fd`` uvicorn would take the socket for a unix socket, so that the event loop would not turn Nagle's algorithm
off: an answer in two pieces would wait 40 ms for the acknowledgement of the first.
"""

from __future__ import annotations

import socket
import sys

import uvicorn

from benchmarks.web.processes import BACKLOG


def main() -> None:
    app, fd, http = sys.argv[1:]
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http=http,
        ws_per_message_deflate=False,
        backlog=BACKLOG,
        log_level="warning",
        access_log=False,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(fd))])


if __name__ == "__main__":
    main()
