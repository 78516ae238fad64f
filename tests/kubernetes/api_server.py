"""An API server of Kubernetes with pods, over TLS: as much of it as a program asks that lists and patches pods."""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import attrs
import trustme

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMESPACE, TOKEN = "games", "a token of the service account"
_PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


@attrs.define
class ApiServer:
    """What it has, and what it was asked."""

    account: Path
    port: int = 0
    pods: dict[str, dict[str, Any]] = attrs.field(factory=dict)
    token: str = TOKEN
    refuses: tuple[str, ...] = ()
    page: int = 500
    refused: int = 0
    calls: list[str] = attrs.field(factory=list)

    def add(self, name: str, *hosts: str, cost: str | None = None, phase: str = "Running", app: str = "room") -> None:
        annotations = {} if cost is None else {"controller.kubernetes.io/pod-deletion-cost": cost}
        self.pods[name] = {
            "metadata": {"name": name, "labels": {"app": app}, "annotations": annotations},
            "status": {"phase": phase, "podIP": hosts[0], "podIPs": [{"ip": host} for host in hosts]} if hosts else {},
        }

    def cost(self, name: str) -> str | None:
        found: str | None = self.pods[name]["metadata"]["annotations"].get("controller.kubernetes.io/pod-deletion-cost")
        return found

    @property
    def patched(self) -> list[str]:
        return [call.removeprefix("PATCH ") for call in self.calls if call.startswith("PATCH ")]

    def environment(self) -> dict[str, str]:
        """Return what a pod is told of it."""
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
            "SCALER_ACCOUNT": str(self.account),
        }

    # What it answers ---------------------------------------------------------------------------------------------

    def answer(self, method: str, url: str, headers: Any, body: bytes) -> tuple[int, dict[str, Any]]:
        parts = urlsplit(url)
        if headers["Authorization"] != f"Bearer {self.token}":
            return 401, {"message": "Unauthorized"}
        if method in self.refuses:
            self.refused += 1
            return 403, {"message": f'pods is forbidden: User "scaler" cannot {method.lower()} resource "pods"'}
        if method == "GET" and parts.path == _PODS:
            return 200, self._list(parse_qs(parts.query))
        if method == "PATCH" and parts.path.startswith(f"{_PODS}/"):
            return self._patch(parts.path.removeprefix(f"{_PODS}/"), headers["Content-Type"], body)
        return 404, {"message": "the server could not find the requested resource"}

    def _list(self, query: dict[str, list[str]]) -> dict[str, Any]:
        self.calls.append("GET")
        label, value = query["labelSelector"][0].split("=")
        chosen = [pod for pod in self.pods.values() if pod["metadata"]["labels"].get(label) == value]
        begin, size = int(query.get("continue", ["0"])[0]), min(self.page, int(query["limit"][0]))
        more = {"continue": str(begin + size)} if begin + size < len(chosen) else {}
        return {"kind": "PodList", "metadata": more, "items": chosen[begin : begin + size]}

    def _patch(self, name: str, kind: str, body: bytes) -> tuple[int, dict[str, Any]]:
        self.calls.append(f"PATCH {name}")
        if kind != "application/merge-patch+json":
            return 415, {"message": "the body of the request was in an unknown format"}
        if name not in self.pods:
            return 404, {"message": f'pods "{name}" not found'}
        changed = json.loads(body)["metadata"]["annotations"]
        if not all(isinstance(value, str) for value in changed.values()):
            return 422, {"message": "annotations are strings"}
        self.pods[name]["metadata"]["annotations"].update(changed)
        return 200, self.pods[name]


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """Run one, and write the folder of an account that it knows."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.crt")
    (folder / "token").write_text(TOKEN + "\n")
    (folder / "namespace").write_text(NAMESPACE)
    api = ApiServer(folder)

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            status, answer = api.answer(self.command, self.path, self.headers, body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_PATCH = _answer  # noqa: N815 - the names of the library

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        api.port = server.server_port
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield api
        finally:
            server.shutdown()
            thread.join()
