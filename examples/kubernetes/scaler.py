"""Tells Kubernetes which pod is the emptiest, so that scale-in takes it, and Prometheus how many links there are.

It runs in the cluster (overlays/autoscale). Every SCALER_PERIOD seconds it reads from Redis how many links each pod of
SCALER_SERVICE has, and writes that number into the annotation ``controller.kubernetes.io/pod-deletion-cost`` of the
pods that SCALER_SELECTOR selects: a ReplicaSet that shrinks deletes the cheapest first. Pods are told apart by their
addresses.

uvicorn scaler:app --port 9090
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import ipaddress
import json
import logging
import math
import os
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

import attrs
from fastapi import FastAPI, Response

from stateful_route import BaseConfig, StatefulRoute, StoreError
from stateful_route.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from stateful_route import PodState

_log = logging.getLogger("scaler")

COST = "controller.kubernetes.io/pod-deletion-cost"
_MOST_COST = 2**31 - 1  # it is an int32
# A cost is written again once it is wrong by more than this share: each write is an update of a pod for all who watch.
_TOLERANCE = 0.1
_MOST_WRITES = 50  # of one round; those that are most wrong come first
_PAGE = 500  # pods of one answer
_TIMEOUT = 5.0  # seconds for one call to the API server
# Periods for which a number of links is told: after that nothing is, and a HorizontalPodAutoscaler changes nothing.
_FRESH = 3
_OK, _FIRST_ERROR, _NOT_FOUND, _UNAVAILABLE = 200, 300, 404, 503


class ApiError(Exception):
    """The API server refused a call; ``status`` is that of its answer."""

    def __init__(self, call: str, status: int, why: str) -> None:
        """Say which call, and why."""
        super().__init__(f"the API server answered {status} to {call}: {why}")
        self.status = status


def _number(name: str, default: str) -> float:
    text = os.environ.get(name) or default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ConfigError(name, text, "a number above 0")
    return value


def _text(name: str, default: str | None = None) -> str:
    text = os.environ.get(name) or default
    if text is None:
        raise ConfigError(name, None, "a text that is not empty")
    return text


@attrs.frozen(kw_only=True)
class Settings:
    """What the environment says.

    Attributes:
        url: of Redis.
        service: whose links count.
        selector: of the labels of its pods.
        period: seconds between two rounds.
        host: of the API server.
        port: of the API server.
        account: the folder of the service account: token, ca.crt and namespace.

    """

    url: str
    service: str
    selector: str
    period: float
    host: str
    port: int
    account: Path

    @classmethod
    def from_env(cls) -> Settings:
        """Read them; KUBERNETES_SERVICE_HOST and _PORT, and the folder, are there in each pod with an account.

        Raises:
            ConfigError: naming the variable that is missing or wrong.

        """
        return cls(
            url=_text("STATEFUL_ROUTE_URL"),
            service=_text("SCALER_SERVICE"),
            selector=_text("SCALER_SELECTOR"),
            period=_number("SCALER_PERIOD", "15"),
            host=_text("KUBERNETES_SERVICE_HOST"),
            port=int(_number("KUBERNETES_SERVICE_PORT", "443")),
            account=Path(_text("SCALER_ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount")),
        )


@attrs.frozen
class KubePod:
    """A pod that runs, as Kubernetes knows it: its name, its addresses, and its cost, ``None`` if it has none."""

    name: str
    hosts: frozenset[str]
    cost: int | None


class ApiServer:
    """What is asked of the API server, over TLS, with the token of the service account. Its methods block."""

    def __init__(self, settings: Settings) -> None:
        """Connect to nothing yet."""
        self._settings = settings

    def pods(self) -> list[KubePod]:
        """Return the pods that run, and are not about to end.

        Raises:
            ApiError: if the answer is no list.
            OSError: if there is no answer within 5 s.

        """
        query = {"labelSelector": self._settings.selector, "limit": str(_PAGE)}
        found: list[KubePod] = []
        while True:
            page = self._ask("GET", f"?{urlencode(query)}")
            found += [_pod(item) for item in page["items"] if _runs(item)]
            query["continue"] = page["metadata"].get("continue", "")
            if not query["continue"]:
                return found

    def set_cost(self, name: str, cost: int) -> None:
        """Write the cost of a pod; one that is gone needs none.

        Raises:
            ApiError: if it is refused.
            OSError: if there is no answer within 5 s.

        """
        patch = {"metadata": {"annotations": {COST: str(cost)}}}
        try:
            self._ask("PATCH", f"/{quote(name, safe='')}", json.dumps(patch))
        except ApiError as error:
            if error.status != _NOT_FOUND:
                raise

    def _ask(self, method: str, what: str, body: str | None = None) -> Any:
        settings = self._settings
        token = (settings.account / "token").read_text().strip()  # each time: the kubelet replaces it
        namespace = (settings.account / "namespace").read_text().strip()
        context = ssl.create_default_context(cafile=str(settings.account / "ca.crt"))
        headers = {"Authorization": f"Bearer {token}", "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/merge-patch+json"
        path = f"/api/v1/namespaces/{namespace}/pods{what}"
        connection = http.client.HTTPSConnection(settings.host, settings.port, timeout=_TIMEOUT, context=context)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
        if answer.status >= _FIRST_ERROR:
            raise ApiError(f"{method} {path}", answer.status, _why(text))
        return json.loads(text)


def _why(text: bytes) -> str:
    """Return what the API server says of an error."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return repr(text[:200])


def _runs(item: dict[str, Any]) -> bool:
    return item["status"].get("phase") == "Running" and "deletionTimestamp" not in item["metadata"]


def _pod(item: dict[str, Any]) -> KubePod:
    metadata, status = item["metadata"], item["status"]
    hosts = {status.get("podIP"), *(ip.get("ip") for ip in status.get("podIPs") or ())}
    try:
        cost = int((metadata.get("annotations") or {}).get(COST, ""))
    except ValueError:  # none, or one that Kubernetes does not take either
        cost = None
    return KubePod(metadata["name"], frozenset(_spelled(host) for host in hosts if host), cost)


def _spelled(host: str) -> str:
    """Return the one spelling of an IP address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def links_of(pods: Iterable[PodState], now: float) -> Counter[str]:
    """Return the links of the pods that are alive at ``now``, by the clock of the store, by their hosts.

    Several processes may share one host. A pod that publishes no address counts under an empty name.
    """
    links: Counter[str] = Counter()
    for pod in pods:
        if pod.is_available(now):
            try:
                host = urlsplit(pod.report.address or "").hostname or ""
            except ValueError:
                host = ""
            links[_spelled(host)] += pod.report.links
    return links


def changes(pods: Iterable[KubePod], links: Mapping[str, int]) -> dict[str, int]:
    """Return the costs to write, by the names of the pods, the most wrong one first.

    A pod of which Redis knows nothing (yet) keeps what it has; one without a cost has 0, as Kubernetes sees it.
    """
    wrong: list[tuple[float, str, int]] = []
    for pod in pods:
        if pod.hosts.isdisjoint(links):
            continue
        wanted, has = min(sum(links.get(host, 0) for host in pod.hosts), _MOST_COST), pod.cost or 0
        off = abs(wanted - has) / max(wanted, abs(has), 1)
        if off > _TOLERANCE:
            wrong.append((-off, pod.name, wanted))
    return {name: wanted for _, name, wanted in sorted(wrong)[:_MOST_WRITES]}


class Scaler:
    """Reads and writes, round by round."""

    def __init__(self, settings: Settings, route: StatefulRoute, api: ApiServer) -> None:
        """Begin with nothing known."""
        self._settings = settings
        self._route = route
        self._api = api
        self._namespace = BaseConfig.from_env().namespace
        self._links: Counter[str] = Counter()
        self._read_at = -math.inf

    async def run(self) -> None:
        """Do rounds until cancelled; what fails is said, and tried again in the next one."""
        while True:
            try:
                await self.round()
            except (StoreError, ApiError, OSError, ValueError, KeyError, http.client.HTTPException) as error:
                _log.warning("not done in this round: %s: %s", type(error).__name__, error)
            await asyncio.sleep(self._settings.period)

    async def round(self) -> dict[str, int]:
        """Read the links, and write the costs that are wrong; return those."""
        table = await self._route.store.read_pods(self._namespace, self._settings.service)
        self._links, self._read_at = links_of(table.pods, table.now), time.monotonic()
        costs = changes(await asyncio.to_thread(self._api.pods), self._links)
        for name, cost in costs.items():
            await asyncio.to_thread(self._api.set_cost, name, cost)
        return costs

    def metrics(self) -> str | None:
        """Return them as Prometheus reads them; ``None`` if they are not known just now, or no pod is alive.

        They are never guessed: with 0 links a HorizontalPodAutoscaler would scale in.
        """
        if not self._links or time.monotonic() - self._read_at > _FRESH * self._settings.period:
            return None
        service = self._settings.service.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines = [
            "# HELP stateful_route_service_links Links of a service, of all its pods that are alive.",
            "# TYPE stateful_route_service_links gauge",
            f'stateful_route_service_links{{service="{service}"}} {self._links.total()}',
        ]
        return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = Settings.from_env()
    async with StatefulRoute.from_url(settings.url, BaseConfig.from_env()) as route:
        app.state.scaler = Scaler(settings, route, ApiServer(settings))
        app.state.running = asyncio.create_task(app.state.scaler.run())
        yield
        app.state.running.cancel()
        await asyncio.wait([app.state.running])


app = FastAPI(lifespan=_lifespan)


@app.get("/metrics")
async def metrics() -> Response:
    """Tell Prometheus."""
    text = app.state.scaler.metrics()
    if text is None:
        return Response("the links are not known", _UNAVAILABLE)
    return Response(text, media_type="text/plain; version=0.0.4")


@app.get("/healthz")
async def healthz() -> Response:
    """Say whether it works on; Redis or the API server may be away."""
    return Response(status_code=_UNAVAILABLE if app.state.running.done() else _OK)
