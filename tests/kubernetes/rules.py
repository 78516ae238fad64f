"""What holds for manifests of the app, whoever has printed them: they fit the code, Kubernetes and each other."""

from __future__ import annotations

import inspect
import re
from typing import Any

import attrs
import kubernetes_validate
from kubernetes_validate.utils import all_versions

from stateful_route import BaseConfig
from stateful_route.cli.app import make_app
from stateful_route.web import StickyMiddleware
from stateful_route.web.front import _START_WITHIN
from tests.kubernetes.rendered import EXAMPLE, Manifest, containers, named, templates

CONFIG = BaseConfig()
STOP_AFTER = inspect.signature(StickyMiddleware.__init__).parameters["stop_after"].default
OLDEST = (1, 30)  # preStop.sleep, and sidecars, are on by default from there on
VERSIONS = [
    version
    for version in dict.fromkeys(all_versions())
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST
]
# Of the web part, and of the example.
MORE_VARIABLES = {"STATEFUL_ROUTE_URL", "STATEFUL_ROUTE_SECRET", "STATEFUL_ROUTE_PEER_LISTEN", "STICKY"}
SCALER = (EXAMPLE / "scaler.py").read_text(encoding="utf-8")


def schemas(manifests: list[Manifest], version: str) -> None:
    """Each manifest is one by the schema of a version of Kubernetes, and has no field that this does not know."""
    for manifest in manifests:
        kubernetes_validate.validate(manifest, version, strict=True)


# What fits together -------------------------------------------------------------------------------------------------


def references(manifests: list[Manifest]) -> None:
    """Each selector, name of a port, volume, account and target says something that is there."""
    labels = [template["metadata"]["labels"] for template in templates(manifests).values()]
    for manifest in manifests:
        for chosen in _selected(manifest):
            assert any(chosen.items() <= each.items() for each in labels), manifest
    for template in templates(manifests).values():
        spec = template["spec"]
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        for container in containers(template):
            ports = {port["name"] for port in container.get("ports", ())}
            probes = [container[kind] for kind in container if kind.endswith("Probe")]

            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            assert {(probe.get("httpGet") or probe["tcpSocket"])["port"] for probe in probes} <= ports
        if "serviceAccountName" in spec:
            assert named(manifests, "ServiceAccount", spec["serviceAccountName"])
    for service in (each for each in manifests if each["kind"] == "Service"):
        (template,) = (
            each for name, each in templates(manifests).items() if name == service["spec"]["selector"]["app"]
        )
        known = {port["name"]: port["containerPort"] for each in containers(template) for port in each.get("ports", ())}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(known)


def _selected(manifest: Manifest) -> list[dict[str, str]]:
    spec = manifest.get("spec", {})
    selectors = [spec.get("selector"), spec.get("podSelector")]
    found = [each.get("matchLabels", each) for each in selectors if each]
    if manifest["kind"] in {"Deployment", "StatefulSet"}:
        spread = spec["template"]["spec"].get("topologySpreadConstraints", ())
        found += [each["labelSelector"]["matchLabels"] for each in spread]
    return found


def commands(manifests: list[Manifest]) -> None:
    """Our commands have the options that they are given, and the ports that the manifest says."""
    for template in templates(manifests).values():
        for container in containers(template):
            command, ports = container["command"], [str(port["containerPort"]) for port in container.get("ports", ())]
            if command[0] == "stateful-route":
                assert make_app().parse_args(command[1:], exit_on_error=False)
            if "--port" in command:
                assert command[command.index("--port") + 1] == ports[0]
            peers = [each for each in container.get("env", ()) if each["name"] == "STATEFUL_ROUTE_PEER_LISTEN"]
            assert [f"tcp://0.0.0.0:{port}" for port in ports[1:]] == [each["value"] for each in peers]


def variables(manifests: list[Manifest], *more: str) -> None:
    """Each variable is one that somebody reads, and is said once."""
    settings = {f"STATEFUL_ROUTE_{field.name.upper()}" for field in attrs.fields(BaseConfig)}
    known = settings | MORE_VARIABLES | set(re.findall(r'"(SCALER_[A-Z]+)"', SCALER)) | set(more)
    for template in templates(manifests).values():
        for container in containers(template):
            names = [each["name"] for each in container.get("env", ())]
            assert set(names) <= known
            assert len(names) == len(set(names))


def confined(manifests: list[Manifest]) -> None:
    """No container is root or can become it, writes to its image, or has an account that it does not need."""
    for name, template in templates(manifests).items():
        spec = template["spec"]
        allowed = spec["securityContext"]

        assert allowed["runAsNonRoot"] is True
        assert allowed["runAsUser"] == allowed["runAsGroup"] > 0
        assert {"type": "RuntimeDefault"} == allowed["seccompProfile"]
        assert (name == "scaler") == spec["automountServiceAccountToken"]
        for container in containers(template):
            expected = {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }

            assert expected == container["securityContext"]
            assert {"cpu", "memory"} == set(container["resources"]["requests"])
            assert {"memory"} == set(container["resources"]["limits"])  # a throttled CPU misses heartbeats


def disruptions(manifests: list[Manifest]) -> None:
    """Of each workload with more than one pod that loses something, a node that is drained takes one at a time."""
    for name in {"room", "gateway"} & set(templates(manifests)):
        budget = named(manifests, "PodDisruptionBudget", name)["spec"]

        assert {"maxUnavailable": 1, "unhealthyPodEvictionPolicy": "AlwaysAllow"}.items() <= budget.items()


# The end of a pod ---------------------------------------------------------------------------------------------------


def waited(container: Manifest) -> int:
    """Return the seconds of its preStop hook."""
    return int(container["lifecycle"]["preStop"]["sleep"]["seconds"])


def option(container: Manifest, name: str) -> float:
    """Return the number that an option of its command has."""
    command = container["command"]
    return float(command[command.index(name) + 1])


def longest(container: Manifest) -> float:
    """Return the seconds that the end of a pod of the app can take, by its settings and the defaults in the code."""
    env = {each["name"]: each.get("value") for each in container["env"]}
    drain = float(env.get("STATEFUL_ROUTE_DRAIN_DEADLINE") or CONFIG.drain_deadline)
    stop = float(env.get("STATEFUL_ROUTE_STOP_DEADLINE") or CONFIG.stop_deadline)
    if container["command"][:2] == ["stateful-route", "run"]:
        server = 2 * option(container, "--stop-timeout")
    else:
        server = option(container, "--timeout-graceful-shutdown")
    return float(waited(container) + drain + STOP_AFTER + server + stop)


def grace(manifests: list[Manifest], under_way: float = 30) -> None:
    """Each grace period is above all that the end of the pod can take, in its order."""
    found = templates(manifests)
    (pod,) = found["room"]["spec"]["containers"]

    assert longest(pod) + 5 <= found["room"]["spec"]["terminationGracePeriodSeconds"]
    assert waited(pod) >= 2 * pod["readinessProbe"]["periodSeconds"]
    if "gateway" in found:
        (gateway,) = found["gateway"]["spec"]["containers"]
        ends = waited(gateway) + CONFIG.drain_deadline / 2 + under_way  # its own drain_deadline

        assert ends == found["gateway"]["spec"]["terminationGracePeriodSeconds"]
        assert not any("DEADLINE" in each["name"] for each in gateway["env"])


# Probes -------------------------------------------------------------------------------------------------------------


def probes(manifests: list[Manifest], path: str | None = "/healthz") -> None:
    """A start may wait for Redis as long as it does; a stall kills a pod only once its uids are gone anyway."""
    for name in {"room", "gateway"} & set(templates(manifests)):
        (container,) = templates(manifests)[name]["spec"]["containers"]
        startup, liveness = container["startupProbe"], container["livenessProbe"]

        assert startup["periodSeconds"] * startup["failureThreshold"] > 2 * _START_WITHIN
        assert liveness["periodSeconds"] * (liveness["failureThreshold"] - 1) > CONFIG.lease_seconds
        if name == "room" and path is not None:
            assert path == liveness["httpGet"]["path"] == container["readinessProbe"]["httpGet"]["path"]
        else:  # a gateway would ask a pod
            assert "httpGet" not in str(container)


# The network --------------------------------------------------------------------------------------------------------


class Network:
    """Who may speak to whom, by the policies: those that select a pod have to admit it, as Kubernetes reads them."""

    def __init__(self, manifests: list[Manifest]) -> None:
        """Take the policies among manifests."""
        self.policies = [each["spec"] for each in manifests if each["kind"] == "NetworkPolicy"]

    def admits(self, source: str, target: str, port: int, protocol: str = "TCP") -> bool:
        """Whether pods with one label ``app`` reach those with another one.

        What is elsewhere has the name of its namespace, or its block of addresses, or any other one.
        """
        to = {"port": port, "protocol": protocol}
        return self._side("Egress", "to", source, target, to) and self._side("Ingress", "from", target, source, to)

    def _side(self, kind: str, peers: str, of: str, other: str, port: Manifest) -> bool:
        applying = [each for each in self.policies if each["podSelector"]["matchLabels"]["app"] == of]
        applying = [each for each in applying if kind in each["policyTypes"]]
        return not applying or any(
            port in rule["ports"] and (peers not in rule or any(_is(other, peer) for peer in rule[peers]))
            for policy in applying
            for rule in policy[kind.lower()]
        )


DNS = "kube-system"


def _is(app: str, peer: Manifest) -> bool:
    if "namespaceSelector" in peer:
        return bool(peer["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": app}})
    if "ipBlock" in peer:
        return bool(peer["ipBlock"] == {"cidr": app})
    selector = peer["podSelector"]
    if "matchLabels" in selector:
        return bool(selector["matchLabels"] == {"app": app})
    (expression,) = selector["matchExpressions"]
    assert ("app", "In") == (expression["key"], expression["operator"])
    return app in expression["values"]


def network(manifests: list[Manifest], users: str = "outside", redis: str = "valkey") -> None:
    """What has to reach each other does; nothing else reaches Redis, the peers' port, or the app past the gateway."""
    policies, pods = Network(manifests), templates(manifests)
    (room,) = pods["room"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in room["ports"]}
    clients = {"room", "gateway", "scaler"} & set(pods)
    apps = set(pods) | {"outside", users}
    to_redis = {app for app in apps if policies.admits(app, redis, 6379)}
    to_peers = {app for app in apps if policies.admits(app, "room", ports["peers"])}
    to_http = {app for app in apps if policies.admits(app, "room", ports["http"])}

    assert clients == (to_redis if redis == "valkey" else to_redis & set(pods))
    assert {"room", "gateway"} & set(pods) == to_peers
    if "gateway" in pods:
        assert policies.admits(users, "gateway", 8000)
        assert set() == to_http
    else:
        assert users in to_http
    assert all(policies.admits(app, DNS, 53, protocol) for app in clients for protocol in ("UDP", "TCP"))
    assert "valkey" not in pods or not any(
        policies.admits("valkey", app, port) for app in apps for port in (443, 6379, 8000, *ports.values())
    )
    assert not policies.admits("room", "outside", 443)
    if "scaler" in pods:
        assert policies.admits("scaler", "outside", 443)
        assert policies.admits("outside", "scaler", 9090)


# Scaling ------------------------------------------------------------------------------------------------------------


def autoscaled(manifests: list[Manifest]) -> None:
    """The autoscaler alone says how many pods there are, by the metric of scaler.py, and one leaves at a time."""
    (room,) = (
        each
        for each in manifests
        if each["metadata"]["name"] == "room" and each["kind"] in {"Deployment", "StatefulSet"}
    )
    spec: Any = named(manifests, "HorizontalPodAutoscaler", "room")["spec"]
    (metric,) = spec["metrics"]
    (leaving,) = spec["behavior"]["scaleDown"]["policies"]
    name, labels = metric["external"]["metric"]["name"], metric["external"]["metric"]["selector"]["matchLabels"]
    (pod,) = templates(manifests)["scaler"]["spec"]["containers"]
    told = {each["name"]: each.get("value") for each in pod["env"]}

    assert "replicas" not in room["spec"]
    assert {key: room[key] for key in ("apiVersion", "kind")} | {"name": "room"} == spec["scaleTargetRef"]
    assert f'{name}{{{{service="{{service}}"}}}}' in SCALER
    assert {"service": told["SCALER_SERVICE"]} == labels
    assert 1 == leaving["value"]
    assert leaving["periodSeconds"] >= room["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "patch"]}] == named(
        manifests, "Role", "scaler"
    )["rules"]
