"""An app that knows nothing of us, for ``stateful-route run``: ``child.py PORT [OPTION=VALUE...]``.

It counts in memory how often a uid was there. Options: ``late=SECONDS`` until it listens (``never`` is possible),
``ends=STATUS`` at once, ``term=STATUS`` with which it ends at SIGTERM (``ignored`` is possible), ``folder=FOLDER`` for
what it notes, ``once=FILE`` to fail unless that file is missing, ``family=yes`` to have a child of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

COUNTS: dict[str, int] = {}
SICK: list[bool] = []
LOCK = threading.Lock()
FOLDER = Path(os.environ["WEB_FOLDER"])


def note(event: str, **facts: Any) -> None:
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.time(), **facts}) + "\n"
    with (FOLDER / "events").open("ab", buffering=0) as file:
        file.write(line.encode())


def end(status: int) -> None:
    note("term")
    os._exit(status)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body in one piece: a kill cuts none in the middle

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        uid = query.get("uid", "")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if url.path == "/events":
            self.stream(uid)
        elif url.path == "/die":
            os._exit(int(query["status"]))
        elif url.path == "/live":
            self.live(query.get("then"))
        else:
            if self.command == "POST":
                note("posted", uid=uid, id=query.get("id"))
            until = time.monotonic() + float(query.get("seconds", "0"))
            while time.monotonic() < until:
                time.sleep(0.0 if url.path == "/busy" else until - time.monotonic())
            with LOCK:
                COUNTS[uid] = COUNTS.get(uid, 0) + 1
            note("served", uid=uid)
            facts = {"pid": os.getpid(), "count": COUNTS[uid], "length": len(body), "headers": dict(self.headers)}
            self.answer(json.dumps(facts).encode())

    do_POST = do_GET  # noqa: N815 - so the library calls it

    def live(self, then: str | None) -> None:
        """Say that all is well, unless it was told to say something else, or to close its port, from now on."""
        self.answer(b"{}", 500 if SICK else 200)
        if then == "a":
            SICK.append(True)
        elif then == "c":
            assert isinstance(self.server, Server)
            self.server.socket.close()

    def answer(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stream(self, uid: str) -> None:
        """Send events until the client is gone."""
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"data: %d\n\n" % os.getpid())
                self.wfile.flush()
                time.sleep(0.02)
        except OSError:
            note("stream_left", uid=uid)


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 200

    def handle_error(self, *_: Any) -> None:
        pass  # a client that is gone


def main(port: str, *options: str) -> None:
    chosen = dict(option.split("=") for option in options)
    note("started", port=int(port), env=os.environ.get("PORT"))
    signal.signal(signal.SIGHUP, lambda *_: note("hup"))
    term = chosen.get("term")
    if term == "ignored":
        signal.signal(signal.SIGTERM, lambda *_: note("term"))
    elif term is not None:
        signal.signal(signal.SIGTERM, lambda *_: end(int(term)))
    if "family" in chosen:
        note("family", child=subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"]).pid)
    if "once" in chosen:
        if Path(chosen["once"]).exists():
            sys.exit(9)
        Path(chosen["once"]).touch()
    if "ends" in chosen:
        sys.exit(int(chosen["ends"]))
    late = chosen.get("late", "0")
    time.sleep(1000 if late == "never" else float(late))
    Server(("127.0.0.1", int(port)), Handler).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
